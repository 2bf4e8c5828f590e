"""One optimiser step on a CPU: our U-Net as the product trains it against nnU-Net's and MONAI's.

Equal work for all: features 16-32-64-128, two convolutions per level, instance norm, leaky ReLU,
2 patches of two 64^3 images, Dice and cross entropy, gradient clipping, SGD with Nesterov momentum.
Peers run in every setting they offer (precision, memory layout, compiler); the best one counts.
Ours is ``Task.step`` after ``Hardware.prepare``, the objects that ``Training.fit`` uses; before
timing, its first loss is compared with that of eager fp32. Every contender has its process, since
``Hardware.prepare`` changes what a process does with freed memory; what the peers would gain from
that alone is measured too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import harness
from benchmarks.harness import Row
from msseg_lightning.core.batch import Batch
from msseg_lightning.core.memory import keep_freed_memory
from msseg_lightning.core.random import keyed_seed
from msseg_lightning.loss.combined import WeightedSum
from msseg_lightning.loss.overlap import SoftDice
from msseg_lightning.network.blocks import Block, Down, Norm, Up
from msseg_lightning.network.unet import UNet
from msseg_lightning.train.task import Task
from msseg_lightning.train.training import Hardware

OURS_FAST = "ours, bf16, channels last, compiled"
OURS_PLAIN = "ours, fp32, eager"
KEPT = ", memory kept"
NNUNET, MONAI = "nnU-Net PlainConvUNet", "MONAI DynUNet"
CLIP, EDGE, TINY_EDGE = 12.0, 64, 16
SGD = functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.99, nesterov=True)
LAST = torch.channels_last_3d

Step = Callable[[], float]


def widths(tiny: bool) -> list[int]:
    return [8, 16, 32, 64] if tiny else [16, 32, 64, 128]


def batch(tiny: bool) -> Batch:
    edge = TINY_EDGE if tiny else EDGE
    generator = torch.Generator().manual_seed(keyed_seed(0, "benchmark step") >> 1)
    images = torch.randn(2, 2, edge, edge, edge, generator=generator)
    target = (torch.rand(2, 1, edge, edge, edge, generator=generator) > 0.97).float()
    return Batch(images, target, ("a", "b"), torch.ones(2))


def our_task(tiny: bool) -> Task:
    torch.manual_seed(keyed_seed(0, "benchmark step") >> 1)
    network = UNet(2, widths(tiny), Block(norm=Norm("instance")), Down("in_block"), Up())
    loss = WeightedSum(
        {"dice": SoftDice(False, 1.0, "batch"), "entropy": nn.BCEWithLogitsLoss()},
        {"dice": 1.0, "entropy": 1.0},
    )
    return Task(network, loss, SGD)


def our_step(tiny: bool, fast: bool) -> Step:
    """One optimiser step with the product's own objects."""
    task, data = our_task(tiny), batch(tiny)
    hardware = Hardware("cpu", precision="bf16-mixed" if fast else "32-true")
    if fast:
        hardware = Hardware("cpu", precision="bf16-mixed", compile=True, channels_last=True)
    hardware.prepare(task)
    task.train()
    optimizer = task.configure_optimizers()
    bf16 = hardware.resolved_precision() == "bf16-mixed"

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # as Lightning's plugin does
            loss = task.step(data).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), CLIP)
        optimizer.step()
        return float(loss.detach())

    return step


def peer_step(network: nn.Module, tiny: bool, bf16: bool, last: bool, compiled: bool) -> Step:
    """The same step for a network with a background and a foreground channel."""
    data = batch(tiny)
    images, labels = data.images, data.target[:, 0].long()
    network.train()
    if last:
        network.to(memory_format=LAST)
        images = images.contiguous(memory_format=LAST)
    optimizer = SGD(network.parameters())
    forward = torch.compile(network, dynamic=False) if compiled else network

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = forward(images)
        loss = dice_and_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        return float(loss.detach())

    return step


def dice_and_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    logits = logits.float()
    found, target = logits.softmax(1)[:, 1], labels.float()
    overlap = (2 * (found * target).sum() + 1) / (found.sum() + target.sum() + 1)
    return functional.cross_entropy(logits, labels) + 1 - overlap


def plain_conv_unet(tiny: bool) -> nn.Module:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    features = widths(tiny)
    levels = len(features)
    return PlainConvUNet(
        2,
        levels,
        features,
        nn.Conv3d,
        [[3] * 3] * levels,
        [[1] * 3] + [[2] * 3] * (levels - 1),
        2,
        2,
        2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def dyn_unet(tiny: bool) -> nn.Module:
    from monai.networks.nets import DynUNet

    features = widths(tiny)
    levels = len(features)
    strides = [1] + [2] * (levels - 1)
    norm = ("INSTANCE", {"affine": True})
    return DynUNet(3, 2, 2, [3] * levels, strides, strides[1:], filters=features, norm_name=norm)


def build(make: Callable[..., Step], *args: Any, kept: bool) -> Step:
    """A contender, in its own process; ``kept``: with the product's handling of freed memory.

    Without it the environment says that memory is left as it is, which the product respects.
    """
    torch.set_num_threads(1)
    if kept:
        keep_freed_memory()
    else:
        os.environ.setdefault("GLIBC_TUNABLES", "")
    return make(*args)


def peer(network: Callable[[bool], nn.Module], tiny: bool, *setting: bool) -> Step:
    """A peer's step in one of its settings."""
    return peer_step(network(tiny), tiny, *setting)


def contenders(tiny: bool) -> tuple[dict[str, harness.Apart], list[dict[str, str]]]:
    """Name -> step, and the peers that are absent. MONAI's network compiles like nnU-Net's."""

    def apart(make: Callable[..., Step], *args: Any, kept: bool = False) -> harness.Apart:
        return harness.Apart(functools.partial(build, make, *args, kept=kept))

    steps = {
        OURS_FAST: apart(our_step, tiny, True, kept=True),
        OURS_PLAIN: apart(our_step, tiny, False),
        OURS_PLAIN + KEPT: apart(our_step, tiny, False, kept=True),
    }
    settings = {
        "fp32, eager": (False, False, False),
        "bf16, eager": (True, False, False),
        "bf16, channels last, eager": (True, True, False),
        "bf16, channels last, compiled": (True, True, True),
    }
    for name, network, offered in (
        (NNUNET, plain_conv_unet, list(settings)),
        (MONAI, dyn_unet, list(settings)[:-1]),
    ):
        for setting in offered:
            steps[f"{name}, {setting}"] = apart(peer, network, tiny, *settings[setting])
        for setting in offered[:2]:  # the one that gains most, and the best
            step = apart(peer, network, tiny, *settings[setting], kept=True)
            steps[f"{name}, {setting}{KEPT}"] = step
    absent = []
    for name, waited in list(steps.items()):
        try:
            waited.ready()
        except ImportError as error:
            absent.append({"name": name, "reason": str(error)})
            del steps[name]
    return steps, absent


def run(rounds: int = 5, tiny: bool = False) -> dict[str, Any]:
    """Compare steps; see the module.

    Raises:
        AssertionError: the fast path computes something else.
    """
    steps, absent = contenders(tiny)
    # from equal weights on equal patches; in fp32 tests/network is stricter
    losses = {name: steps[name]() for name in (OURS_PLAIN, OURS_FAST)}
    assert abs(losses[OURS_FAST] - losses[OURS_PLAIN]) < 5e-3, losses
    timings = harness.alternate(steps, rounds)
    milliseconds = {name: timing.cpu_s * 1e3 for name, timing in timings.items()}
    ours = milliseconds[OURS_FAST]
    peers = [name for name in steps if name.startswith((NNUNET, MONAI))]

    def quickest(names: Sequence[str], *endings: str) -> str | None:
        chosen = [name for name in names if name.endswith(endings)]
        return min(chosen, key=milliseconds.__getitem__, default=None)

    plain = quickest(peers, "fp32, eager")
    best = quickest(peers, "eager", "compiled")
    helped = quickest(peers, KEPT)
    spread = f"spread {timings[OURS_FAST].spread:.0%}"
    rows = [
        Row.faster(
            "training step, against the best peer in fp32, eager",
            ours,
            milliseconds.get(plain),
            3.0,
            note=f"{plain or 'peers absent'}; {spread}",
        ),
        Row.faster(
            "training step, against our own in fp32, eager",
            ours,
            milliseconds[OURS_PLAIN],
            3.0,
            note=spread,
        ),
        Row.faster(
            "training step, against the best peer setting",
            ours,
            milliseconds.get(best),
            1.25,
            note=f"{best or 'peers absent'}; {spread}",
        ),
        Row.faster(
            "training step, against the best peer setting with memory kept as we do",
            ours,
            milliseconds.get(helped),
            None,
            note=f"{helped or 'peers absent'}; {spread}",
        ),
        Row.faster(
            "training step, against our own in fp32, eager, with memory kept",
            ours,
            milliseconds[OURS_PLAIN + KEPT],
            None,
            note=spread,
        ),
    ]
    return {
        "benchmark": "training_step",
        "sizes": {"patch": batch(tiny).images.shape[2], "batch": 2, "widths": widths(tiny)},
        "rounds": rounds,
        "tiny": tiny,
        "timings": {name: vars(timing) for name, timing in timings.items()},
        "first_loss": losses,
        "absent": absent,
        "rows": [vars(row) for row in rows],
    }


if __name__ == "__main__":
    harness.main(run, rounds=5)

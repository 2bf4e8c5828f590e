"""The GPU set in one call: training step against nnU-Net as shipped, sliding window of one pair.

    python -m benchmarks.speed.gpu                 on a machine with a CUDA device, some ten minutes
    python -m benchmarks.speed.gpu --tiny          the same code at sizes of seconds, also on a CPU

nnU-Net's default network (widths 32 to 320, six levels, deep supervision), 2 patches of 2 x 128^3.
As shipped it runs float16 with a gradient scaler and the compiler; ours runs bf16, channels last,
compiled, through ``Task.step`` and ``Hardware.prepare``. The window rule is 96^3 at half
overlap over 182 x 218 x 182. Without a CUDA device the rows say that nothing was measured.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks import harness
from benchmarks.harness import Row
from benchmarks.speed.training_step import dice_and_entropy
from msseg_lightning.core.batch import Batch
from msseg_lightning.infer.sliding_window import SlidingWindow
from msseg_lightning.loss.combined import WeightedSum
from msseg_lightning.loss.deep_supervision import DeepSupervision
from msseg_lightning.loss.overlap import SoftDice
from msseg_lightning.network.blocks import Block, Down, Norm, Up
from msseg_lightning.network.unet import UNet
from msseg_lightning.train.task import Task
from msseg_lightning.train.training import Hardware

WEIGHTS = (1.0, 0.5, 0.25, 0.125, 0.0625)
STEP, PAIR = "training step 2 x 128^3", "one pair"


def widths(tiny: bool) -> list[int]:
    return [4, 6, 8, 8, 8, 8] if tiny else [32, 64, 128, 256, 320, 320]


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(function: Callable[[], Any], rounds: int, calls: int) -> dict[str, float]:
    """Median wall ms of a call, the device waited for; spread; first call apart."""
    began = time.perf_counter()
    function()
    synchronise()
    first = time.perf_counter() - began
    function()
    times = []
    for _ in range(rounds):
        synchronise()
        began = time.perf_counter()
        for _ in range(calls):
            function()
        synchronise()
        times.append((time.perf_counter() - began) / calls)
    median = statistics.median(times)
    spread = (max(times) - min(times)) / median
    return {"wall_s": median, "cpu_s": median, "spread": spread, "first_s": first}


def our_network(tiny: bool, heads: int = len(WEIGHTS)) -> UNet:
    block = Block(norm=Norm("instance"))
    return UNet(2, widths(tiny), block, Down("in_block"), Up(), heads=heads)


def our_step(batch: Batch, tiny: bool, hardware: Hardware) -> Callable[[], None]:
    terms = {"dice": SoftDice(False, 1.0, "batch"), "entropy": nn.BCEWithLogitsLoss()}
    loss = DeepSupervision(WeightedSum(terms, dict.fromkeys(terms, 1.0)), WEIGHTS)
    sgd = functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.99, nesterov=True)
    task = Task(our_network(tiny), loss, sgd).to(batch.images.device).train()
    hardware.prepare(task)
    optimizer = task.configure_optimizers()
    device = batch.images.device.type

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            value = task.step(batch).loss
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 12)
        optimizer.step()

    return step


def nnunet_step(batch: Batch, tiny: bool) -> Callable[[], None]:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    levels, device = len(widths(tiny)), batch.images.device
    network: Any = PlainConvUNet(
        2,
        levels,
        widths(tiny),
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
        deep_supervision=True,
    ).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    forward = torch.compile(network) if device.type == "cuda" else network

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        kind = torch.float16 if device.type == "cuda" else torch.bfloat16
        with torch.autocast(device.type, kind):
            outputs = forward(batch.images)
        value = batch.images.new_zeros(())
        for output, weight in zip(outputs, WEIGHTS, strict=False):
            target = nn.functional.interpolate(batch.target, output.shape[2:], mode="nearest")
            value = value + weight * dice_and_entropy(output, target[:, 0].long())
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()

    return step


def pair_prediction(tiny: bool, device: torch.device) -> Callable[[], Any]:
    shape, size = ((40, 48, 40), 32) if tiny else ((182, 218, 182), 96)
    grids = torch.meshgrid(
        *(torch.linspace(-1, 1, edge, device=device) for edge in shape), indexing="ij"
    )
    brain = sum((grid / 0.8) ** 2 for grid in grids) <= 1
    images = torch.randn(2, *shape, device=device) * brain
    network = our_network(tiny, heads=1).to(device)
    rule = SlidingWindow(size, 0.5, weighting="gaussian", batch_size=4, precision="bf16")
    return lambda: rule(network, images, brain)


def run(rounds: int = 5, tiny: bool = False) -> dict[str, Any]:
    """Measure; see the module."""
    timings: dict[str, dict[str, float]] = {}
    absent = []
    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else "no CUDA device"
    if gpu or tiny:
        device = torch.device("cuda" if gpu else "cpu")
        edge, calls = (64, 1) if tiny else (128, 10)
        batch = Batch(
            torch.randn(2, 2, edge, edge, edge, device=device),
            (torch.rand(2, 1, edge, edge, edge, device=device) > 0.98).float(),
            ("a", "b"),
            torch.ones(2),
        )
        hardware = Hardware(device.type, compile=gpu, channels_last=True)
        timings["ours"] = timed(our_step(batch, tiny, hardware), rounds, calls)
        try:
            timings["nnU-Net"] = timed(nnunet_step(batch, tiny), rounds, calls)
        except ImportError as error:
            absent.append({"name": "nnU-Net", "reason": str(error)})
        timings["pair"] = timed(pair_prediction(tiny, device), rounds, 1)
    measured = {key: value["wall_s"] for key, value in timings.items()} if gpu else {}

    def scaled(key: str, factor: float) -> float | None:
        return measured[key] * factor if key in measured else None

    ours, peer = scaled("ours", 1e3), scaled("nnU-Net", 1e3)
    return {
        "benchmark": "gpu",
        "device": name,
        "rounds": rounds,
        "tiny": tiny,
        "timings": timings,
        "absent": absent,
        "rows": [
            vars(Row.faster(f"GPU, {STEP}, against nnU-Net", ours, peer, 2.0, "ms", note=name)),
            vars(Row(f"GPU, {PAIR}", scaled("pair", 1.0), None, None, "", "s", None, name)),
        ],
    }


if __name__ == "__main__":
    harness.main(run, rounds=5)

"""Sliding-window inference of one pair: ours against MONAI's inferer and nnU-Net's predictor.

All contenders run one network (five levels, instance norm, strided convolutions, two output
channels) with windows of half overlap and Gaussian weights, in turn (A B C A B C ...), each in its
own process and one thread. Ours keep freed memory, as every ``msseg`` command does; what the peers
would gain by that is measured too. Reported are medians of CPU seconds, their spread, ratios to the
peers, the peak memory a contender adds (each in a fresh process whose allocator returns blocks of
1 MiB at once, so that what is held is counted and not what is kept for later) and the agreement
with the plain rule inside the brain. nnU-Net takes part where it is installed.

The network is untrained: errors of logits count, masks do not (``benchmarks.studies.tiling``
compares those of a trained one).
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from scipy import ndimage
from torch import Tensor, nn

from benchmarks import harness
from msseg_lightning.core.memory import keep_freed_memory
from msseg_lightning.core.random import keyed_generator, keyed_seed
from msseg_lightning.infer.sliding_window import SlidingWindow
from msseg_lightning.network.blocks import Block, Down, Norm, Up
from msseg_lightning.network.foreground_logit import ForegroundLogit
from msseg_lightning.network.unet import UNet

log = logging.getLogger(__name__)

NNUNET, PLAIN = "nnU-Net predictor", "plain rule, same grid, one window per call"
EXACT, EXACT_BF16 = "ours, exact, fp32", "ours, exact, bf16"
BOX, BOX_BF16 = "ours, re-tiled, fp32", "ours, re-tiled, bf16"
ONE, ONE_BF16 = "ours, one pass, fp32", "ours, one pass, bf16"
KEPT = ", memory kept"
MONAI = {count: f"MONAI, {count} windows per call" for count in (2, 4)}


def sizes(tiny: bool) -> tuple[tuple[int, int, int], int]:
    """Volume and window."""
    return ((48, 56, 48), 32) if tiny else ((128, 152, 128), 64)


def pair(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Two smooth noisy volumes (2, X, Y, Z), zero outside a brain-sized ellipsoid, and that."""
    generator = keyed_generator(0, "benchmark inference")
    grid = np.ogrid[tuple(slice(0, edge) for edge in shape)]
    half = [edge * part for edge, part in zip(shape, (0.395, 0.412, 0.407), strict=True)]
    distance = sum(
        ((axis - (edge - 1) / 2) / size) ** 2
        for axis, edge, size in zip(grid, shape, half, strict=True)
    )
    brain = distance <= 1
    tissue = ndimage.gaussian_filter(generator.standard_normal(shape, np.float32), 4) * 20
    noise = generator.standard_normal((2, *shape), np.float32) * 0.25
    return torch.from_numpy((tissue + noise) * brain), torch.from_numpy(brain)


def network() -> UNet:
    torch.manual_seed(keyed_seed(0, "benchmark inference"))
    block = Block("conv_norm_act", norm=Norm("instance"))
    return UNet(2, [8, 16, 32, 64, 128], block, Down(), Up(), out_channels=2).eval()


def contenders(tiny: bool) -> tuple[dict[str, Callable[[], Tensor]], Tensor]:
    """Name -> run, returning the lesion logit (X, Y, Z); and the brain."""
    shape, size = sizes(tiny)
    images, brain = pair(shape)
    net = network()
    ours: nn.Module = ForegroundLogit(net)

    def window(inside: Tensor | None, **settings: Any) -> Callable[[], Tensor]:
        rule = SlidingWindow(size, 0.5, weighting="gaussian", **settings)
        return lambda: rule(ours, images, inside)[0]

    def monai(count: int) -> Callable[[], Tensor]:
        inferer = SlidingWindowInferer(size, count, overlap=0.5, mode="gaussian", sigma_scale=0.125)

        def run() -> Tensor:
            with torch.inference_mode():
                both = inferer(images[None], net)
            return both[0, 1] - both[0, 0]

        return run

    def plain() -> Tensor:
        """Plain sliding window: all windows one by one, averaged."""
        inferer = SlidingWindowInferer(size, 1, overlap=0.5, mode="gaussian", sigma_scale=0.125)
        with torch.inference_mode():
            return inferer(images[None], ours)[0, 0]

    runs: dict[str, Callable[[], Tensor]] = {}
    if importlib.util.find_spec("nnunetv2") is not None:
        runs[NNUNET] = nnunet(net, images, size)
    runs |= {MONAI[count]: monai(count) for count in MONAI}
    runs |= {
        PLAIN: plain,
        EXACT: window(brain),
        EXACT_BF16: window(brain, precision="bf16"),
        BOX: window(brain, tiling="inside_box"),
        BOX_BF16: window(brain, tiling="inside_box", precision="bf16"),
        ONE: window(brain, tiling="one_pass"),
        ONE_BF16: window(brain, tiling="one_pass", precision="bf16"),
    }
    return runs, brain


def nnunet(net: nn.Module, images: Tensor, size: int) -> Callable[[], Tensor]:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=True,
        device=torch.device("cpu"),
        verbose=False,
        allow_tqdm=False,
    )
    predictor.network, predictor.allowed_mirroring_axes = net, None
    predictor.configuration_manager = SimpleNamespace(patch_size=[size] * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)

    def run() -> Tensor:
        both = predictor.predict_sliding_window_return_logits(images).float()
        return both[1] - both[0]

    return run


def apart(name: str, tiny: bool, kept: bool = False) -> harness.Apart:
    """A contender in its own process, ours with freed memory kept."""
    ours = name.startswith("ours")
    return harness.Apart(functools.partial(alone, name, tiny, kept or ours))


def alone(name: str, tiny: bool, kept: bool) -> Callable[[], Tensor]:
    """Function that runs in that process."""
    torch.set_num_threads(1)
    if kept:
        keep_freed_memory()
    return contenders(tiny)[0][name]


def peak_mib(name: str, tiny: bool) -> float:
    """Memory a contender adds, by its high-water mark in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.inference", "--peak", name]
    result = subprocess.run(
        [*command, *(["--tiny"] if tiny else [])],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )
    return float(result.stdout.strip().splitlines()[-1])


def added_peak(name: str, tiny: bool) -> float:
    run = contenders(tiny)[0][name]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = status_mib("VmRSS")
    run()
    return status_mib("VmHWM") - before


def status_mib(field: str) -> float:
    """A line of this process's memory status (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def agreement(answer: Tensor, plain: Tensor, brain: Tensor) -> dict[str, float]:
    """Differences of the logits in the brain from those of the plain rule: largest and all."""
    wrong, right = (answer - plain)[brain], plain[brain]
    return {
        "largest_error": wrong.abs().max().item(),
        "relative_error": (wrong.norm() / right.norm()).item(),
    }


def run(rounds: int = 3, tiny: bool = False) -> dict[str, Any]:
    """Measure all contenders.

    Args:
        rounds: how often each runs, in turn.
        tiny: a volume of seconds.

    Returns:
        JSON-ready: ``rows`` by contender, ``ratios`` by the names of the limits they belong to,
        and the machine.
    """
    brain = pair(sizes(tiny)[0])[1]
    runs = {name: apart(name, tiny) for name in contenders(tiny)[0]}
    for name in [name for name in runs if name == NNUNET or name in MONAI.values()]:
        runs[name + KEPT] = apart(name, tiny, kept=True)
    for contender in runs.values():
        contender.ready()
    answers = {name: contender() for name, contender in runs.items()}
    timings = harness.alternate(runs, rounds, warm_up=0)
    rows = {
        name: {
            "cpu_s": timing.cpu_s,
            "spread": timing.spread,
            "peak_mib": None if name.endswith(KEPT) else peak_mib(name, tiny),
            **agreement(answers[name], answers[PLAIN], brain),
        }
        for name, timing in timings.items()
    }

    def ratio(slow: str, fast: str) -> float | None:
        return rows[slow]["cpu_s"] / rows[fast]["cpu_s"] if slow in rows else None

    def memory(name: str) -> float | None:
        return rows[name]["peak_mib"] / rows[NNUNET]["peak_mib"] if NNUNET in rows else None

    best = min(MONAI.values(), key=lambda name: rows[name]["cpu_s"])
    helped = min((name + KEPT for name in MONAI.values()), key=lambda name: rows[name]["cpu_s"])
    return {
        "benchmark": "inference",
        "sizes": {"volume": sizes(tiny)[0], "window": sizes(tiny)[1], "overlap": 0.5},
        "rounds": rounds,
        "rows": rows,
        "ratios": {
            "exact fp32 vs nnU-Net (limit 1.5)": ratio(NNUNET, EXACT),
            "exact bf16 vs nnU-Net (limit 3)": ratio(NNUNET, EXACT_BF16),
            "re-tiled bf16 vs nnU-Net (limit 5)": ratio(NNUNET, BOX_BF16),
            f"re-tiled bf16 vs {best} (limit 3)": ratio(best, BOX_BF16),
            f"exact fp32 vs {best}": ratio(best, EXACT),
            "exact fp32 vs nnU-Net, memory kept": ratio(NNUNET + KEPT, EXACT),
            "exact bf16 vs nnU-Net, memory kept": ratio(NNUNET + KEPT, EXACT_BF16),
            "re-tiled bf16 vs nnU-Net, memory kept": ratio(NNUNET + KEPT, BOX_BF16),
            f"re-tiled bf16 vs {helped}": ratio(helped, BOX_BF16),
            "one pass bf16 vs nnU-Net (limit 10)": ratio(NNUNET, ONE_BF16),
            "peak memory, exact fp32 over nnU-Net (limit 1 at most)": memory(EXACT),
            "peak memory, exact bf16 over nnU-Net (limit 1 at most)": memory(EXACT_BF16),
            "peak memory, re-tiled bf16 over nnU-Net (limit 1 at most)": memory(BOX_BF16),
            "peak memory, one pass bf16 over nnU-Net": memory(ONE_BF16),
            "largest error of a logit in the brain, exact fp32 (limit 0.001 at most)": rows[EXACT][
                "largest_error"
            ],
        },
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": 1,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a volume of seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        torch.set_num_threads(1)
        sys.stdout.write(f"{added_peak(arguments.peak, arguments.tiny)}\n")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    result = run(arguments.rounds, arguments.tiny)
    heads = ("", "CPU s", "spread", "peak MiB", "largest", "relative error")
    log.info("%-46s %8s %7s %9s %10s %15s", *heads)
    for name, row in result["rows"].items():
        log.info(
            "%-46s %8.2f %6.0f%% %9s %10.1e %15.1e",
            name,
            row["cpu_s"],
            100 * row["spread"],
            "-" if row["peak_mib"] is None else round(row["peak_mib"]),
            row["largest_error"],
            row["relative_error"],
        )
    for name, value in result["ratios"].items():
        log.info("%-72s %s", name, "peer not installed" if value is None else f"{value:.2g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

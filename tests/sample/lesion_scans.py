"""Small prepared scans with masks of all lesions, and networks that fill noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume

SHAPE = (36, 40, 32)
LESION = 4.0
"""Intensity of a lesion; tissue is -0.5 to 0.5 about 0.2."""

Places = Sequence[tuple[int, int, int]]
PLACES: Places = tuple(itertools.product((6, 15, 24), (7, 16, 28), (6, 20)))


def prepared(
    folder: Path, name: str, seed: int, pair: bool = True, places: Places | None = None
) -> PreparedSubject:
    """Three old lesions of 4^3 and a new one at places of its own; or the second visit alone."""
    generator = np.random.default_rng(seed)
    brain = np.zeros(SHAPE, np.uint8)
    brain[3:-3, 3:-3, 3:-3] = 1
    old, new = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    drawn = [PLACES[index] for index in generator.choice(len(PLACES), 4, replace=False)]
    for place, mask in zip(places or drawn, (old, old, old, new), strict=False):
        mask[tuple(slice(a, a + 4) for a in place)] = 1
    texture = ndimage.gaussian_filter(generator.normal(size=SHAPE), 2.0)
    tissue = (0.2 + 0.2 * texture / texture.std()) * brain
    affine = np.diag([1.5, 1.5, 1.5, 1.0])

    def scan(lesions: np.ndarray) -> Volume:
        noise = generator.normal(0, 0.05, SHAPE) * brain
        return Volume(np.where(lesions, LESION, tissue + noise).astype(np.float32), affine)

    volumes = {
        FOLLOWUP: scan(old | new),
        FOLLOWUP_LESIONS: Volume(old | new, affine, "mask"),
        BRAIN: Volume(brain, affine, "mask"),
    }
    if pair:
        volumes |= {
            BASELINE: scan(old),
            BASELINE_LESIONS: Volume(old, affine, "mask"),
            TARGET: Volume(new, affine, "mask"),
        }
    subject = LongitudinalSubject(name, name, {})
    loaded = LoadedSubject(subject, volumes, Native(volumes[FOLLOWUP].grid, b""))
    return PreparedSubject.write(loaded, folder / name)


class Filler(nn.Module):
    """Answers every voxel with one value, in units of the patch: 0 is its mean."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value), requires_grad=False)
        self.calls: list[tuple[int, ...]] = []
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(tuple(images.shape))
        self.modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return images[:, :1] * 0 + self.value

"""A prediction is replaced, never changed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from msseg_lightning.core.prediction import Prediction
from msseg_lightning.core.subject import Native
from msseg_lightning.core.volume import Grid


def test_a_rule_replaces_the_mask_and_keeps_the_rest():
    native = Native(Grid((2, 2, 2), np.eye(4)), b"")
    mask = np.ones((2, 2, 2), np.uint8)
    first = Prediction("p1", mask, native, warnings=("dark",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.mask = 1 - mask
    second = dataclasses.replace(first, mask=1 - mask)
    assert first.mask.all() and not second.mask.any()
    assert second.native is native and second.warnings == ("dark",)
    assert (second.probability, second.inside, second.spread) == (None, None, None)

"""The picture of synthetic pairs is drawn from plans as they are."""

import numpy as np

from benchmarks.synthetic_pairs import draw
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.sample.synthetic_pairs import Fate, Plan


def test_a_picture_is_written(tmp_path):
    shape = (12, 12, 12)
    generator = keyed_generator("picture")
    lesions = np.zeros(shape, np.uint32)
    lesions[2:5, 2:5, 5:8], lesions[8:10, 8:10, 5:8] = 1, 2
    erase = np.stack([lesions == 1, np.zeros(shape, bool)])
    paint = np.zeros((2, *shape), bool)
    plan = Plan(
        copies=generator.normal(size=(2, *shape)).astype(np.float32),
        lesions=lesions,
        fates=(Fate.ERASED_FIRST, Fate.KEPT),
        erase=erase,
        paint=paint,
        new=lesions == 1,
        subject="a",
        generator=generator,
    )
    out = tmp_path / "pairs.png"
    draw([plan], plan.copies[None], (lesions == 1)[None, None].astype(np.float32), out)
    assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size > 5000

import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LongitudinalSubject
from msseg_lightning.preprocess.crop import CropToMask
from msseg_lightning.preprocess.intensity import ZScore
from msseg_lightning.preprocess.nyul import Nyul
from msseg_lightning.preprocess.pipeline import Preprocess
from msseg_lightning.preprocess.reorient import Reorient


@pytest.fixture
def subject(tmp_path):
    files = {}
    for name in (BASELINE, FOLLOWUP):
        files[name] = tmp_path / f"{name}.nii.gz"
        files[name].write_bytes(name.encode())
    return LongitudinalSubject("p1", "p1", files)


def test_order_matters_and_the_input_stays(phantom):
    loaded = phantom.pair(phantom.grid("left-handed"))
    chain = Preprocess([Reorient(), CropToMask(2.0), ZScore()])
    result = chain.run(loaded)
    assert result.grid.shape != loaded.grid.shape
    assert np.asarray(loaded.volumes[BASELINE].data).max() > 100
    assert repr(chain) == "Preprocess(Reorient, CropToMask, ZScore)"
    assert Preprocess().run(loaded) is loaded


def test_key_follows_bytes_parameters_order_and_version(subject, tmp_path):
    chain = Preprocess([Reorient(), ZScore()])
    key = chain.key(subject)
    assert key == Preprocess([Reorient(), ZScore()]).key(subject)
    assert key != Preprocess([ZScore(), Reorient()]).key(subject)
    assert key != Preprocess([Reorient(), ZScore("volume")]).key(subject)
    assert key != chain.key(dataclasses.replace(subject, reversed_time=True))
    assert key != chain.key(dataclasses.replace(subject, to_native={BASELINE: np.eye(4)}))

    @dataclasses.dataclass(frozen=True)
    class Newer(ZScore):
        version: ClassVar[int] = 2

    Newer.__qualname__, Newer.__module__ = ZScore.__qualname__, ZScore.__module__
    assert key != Preprocess([Reorient(), Newer()]).key(subject)
    moved = tmp_path / "elsewhere.nii.gz"
    moved.write_bytes(subject.images[BASELINE].read_bytes())
    images = {**subject.images, BASELINE: moved}
    assert key == chain.key(dataclasses.replace(subject, images=images))
    moved.write_bytes(b"changed")
    assert key != chain.key(dataclasses.replace(subject, images=images))


def test_landmarks_are_learned_from_what_the_steps_before_make(phantom, subject):
    loaded = phantom.pair(phantom.grid("canonical"))
    chain = Preprocess([ZScore("volume", outside="scale"), Nyul(region="volume")])
    assert chain.needs_fit() and not Preprocess([ZScore()]).needs_fit()
    fitted = chain.fit([subject], lambda _: loaded)
    assert not chain.steps[1].landmarks and len(fitted.steps[1].landmarks) == 11
    assert fitted.key(subject) != chain.key(subject)
    alone = Nyul(region="volume").fit([ZScore("volume", outside="scale")(loaded)])
    assert fitted.steps[1] == alone

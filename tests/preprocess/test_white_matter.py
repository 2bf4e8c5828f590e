import numpy as np
import pytest

from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess import atlas
from msseg_lightning.preprocess.atlas import mni152
from msseg_lightning.preprocess.space import resample_array
from msseg_lightning.preprocess.white_matter import (
    GREY_MATTER,
    WHITE_MATTER,
    WhiteMatterPrior,
)
from tests.preprocess.test_brain import scan_of_template


@pytest.mark.parametrize("pair", [True, False], ids=["pair", "visit alone"])
def test_the_template_moved_comes_back(phantom, pair, monkeypatch):
    way = np.eye(4)
    way[:3, :3] = phantom.rotation(6, 2, -3) @ np.diag([1.05, 1.02, 1.04])
    way[:3, 3] = (3, -4, 5)
    scan, brain = scan_of_template(way, skull=False)
    # z-scored, as after normalisation, and black outside
    values = np.where(brain, (scan.data - 230) / 80, 0).astype(np.float32)
    volumes = {FOLLOWUP: Volume(values, scan.affine), BRAIN: Volume(brain, scan.affine, "mask")}
    if pair:  # one registration in these tests is enough
        volumes[BASELINE] = Volume(values * 1.2, scan.affine)
        monkeypatch.setattr(atlas, "affine_from_atlas", lambda *_: np.linalg.inv(way))
    subject = LoadedSubject(LongitudinalSubject("a", "a", {}), volumes, Native(scan.grid, b""))
    marked = WhiteMatterPrior(0.5, grey=0.6)(subject)
    template = mni152()
    tissues = ((WHITE_MATTER, template.white, 0.5), (GREY_MATTER, template.grey, 0.6))
    for name, tissue, limit in tissues:
        found = marked.volumes[name].data
        truth = resample_array(tissue, template.affine, scan.grid, "probability", way) > limit
        dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        assert dice > 0.8
        assert not (found & ~brain).any()


def test_an_empty_brain_has_none():
    data = np.zeros((8, 8, 8), np.float32)
    volumes = {FOLLOWUP: Volume(data, np.eye(4)), BRAIN: Volume(data > 0, np.eye(4), "mask")}
    subject = LoadedSubject(
        LongitudinalSubject("a", "a", {}), volumes, Native(volumes[FOLLOWUP].grid, b"")
    )
    marked = WhiteMatterPrior()(subject)
    assert not marked.volumes[WHITE_MATTER].data.any() and "empty" in marked.notes[0]
    assert GREY_MATTER not in marked.volumes
    assert not WhiteMatterPrior(grey=0.5)(subject).volumes[GREY_MATTER].data.any()


def test_a_registration_that_failed_is_said_and_mended(monkeypatch):
    scan, brain = scan_of_template(np.eye(4), skull=False)
    volumes = {FOLLOWUP: scan, BRAIN: Volume(brain, scan.affine, "mask")}
    subject = LoadedSubject(LongitudinalSubject("a", "a", {}), volumes, Native(scan.grid, b""))
    right = WhiteMatterPrior()(subject)
    monkeypatch.setattr(atlas, "affine_from_atlas", lambda *_: np.diag([0.33, 0.33, 0.33, 1.0]))
    found = WhiteMatterPrior()(subject)
    assert right.notes == () and "registration failed" in found.notes[-1]
    one, other = (answer.volumes[WHITE_MATTER].data for answer in (right, found))
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.8

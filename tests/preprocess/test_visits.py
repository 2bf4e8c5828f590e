import json

import numpy as np
import pytest

from msseg_lightning.core.subject import BASELINE, BRAIN, FOLLOWUP, FOLLOWUP_LESIONS
from msseg_lightning.preprocess.crop import CropToMask
from msseg_lightning.preprocess.intensity import ZScore
from msseg_lightning.preprocess.mask import FOLLOWUP_BRAIN, ApplyMask, CombineMasks
from msseg_lightning.preprocess.pseudo_lesions import PseudoLesions
from msseg_lightning.preprocess.register import HalfwayRegistration
from msseg_lightning.preprocess.reorient import Reorient
from msseg_lightning.preprocess.resample import Resample
from msseg_lightning.preprocess.visits import PreparedVisits
from msseg_lightning.read.single_timepoint import SingleTimepoint
from tests.read.test_single_timepoint import scan


def steps():
    return {
        "reorient": Reorient(),
        "register": HalfwayRegistration(),
        "combine": CombineMasks("union"),
        "mask": ApplyMask(),
        "normalise": ZScore(region="mask"),
        "crop": CropToMask(3.0),
        "resample": Resample(2.0),
        "switched_off": None,
        "lesions": PseudoLesions(),
    }


def test_scans_go_through_the_chain_of_the_pairs(tmp_path):
    scan(tmp_path / "scans", "001", brain=True)
    scan(tmp_path / "scans", "002", brain=True, lesions=False)
    source = PreparedVisits(SingleTimepoint(tmp_path / "scans"), steps(), tmp_path / "cache")
    first, second = source.subjects()
    assert first.id == "single-001"
    assert first.image_names == (FOLLOWUP,) and BASELINE not in first.layers
    assert set(first.mask_names) == set(second.mask_names) == {FOLLOWUP_LESIONS, BRAIN}
    assert first.grid.spacing_mm == pytest.approx((2, 2, 2))
    inside = first.image(FOLLOWUP)[first.mask(BRAIN)]
    assert abs(inside.mean()) < 0.05
    # only what a rule has marked is called so
    assert not any("pseudo" in note for note in first.notes)
    assert any("pseudo-labels" in note for note in second.notes)
    meta = json.loads((second.folder / "meta.json").read_text())
    assert any("pseudo-labels" in note for note in meta["notes"])
    again = PreparedVisits(SingleTimepoint(tmp_path / "scans"), steps(), tmp_path / "cache")
    assert [subject.folder for subject in again.subjects()] == [first.folder, second.folder]


def test_no_folder_is_an_empty_source(tmp_path):
    assert PreparedVisits(SingleTimepoint(None), steps(), tmp_path / "cache").subjects() == []
    assert not (tmp_path / "cache").exists()


def test_the_brain_of_a_visit_alone_is_its_own(tmp_path):
    scan(tmp_path, "001", brain=True)
    reader = SingleTimepoint(tmp_path)
    loaded = reader.load(reader.subjects()[0])
    own = loaded.volumes[BRAIN]
    volumes = {FOLLOWUP: loaded.volumes[FOLLOWUP], FOLLOWUP_BRAIN: own}
    combined = CombineMasks("union")(loaded.replace(volumes=volumes))
    np.testing.assert_array_equal(combined.volumes[BRAIN].data, np.asarray(own.data) != 0)

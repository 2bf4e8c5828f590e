import numpy as np
import pytest

from msseg_lightning.compare.foreign import ForeignData
from msseg_lightning.core.problem import MssegError
from msseg_lightning.evaluate.case_score import ScoreOptions
from tests.compare import scored


def test_predictions_with_other_values_are_read_as_told(tmp_path):
    masks = {"p00": 255 * scored.reference("p00")}
    folder = scored.write_masks(tmp_path / "p", masks)
    truth = scored.write_masks(tmp_path / "t", {"p00": scored.reference("p00")})
    with pytest.raises(MssegError, match="--prediction-label-value=255=1"):
        ForeignData(truth).score(folder, ScoreOptions())
    scores, patients = ForeignData(truth, prediction_label_values={255: 1}).score(
        folder, ScoreOptions()
    )
    assert scores["p00"].official["Dice"] == 1 and patients == {}
    with pytest.raises(MssegError, match="--label-value=255=1"):
        ForeignData(folder).score(truth, ScoreOptions())
    scores, _ = ForeignData(folder, label_values={255: 1}).score(truth, ScoreOptions())
    assert scores["p00"].official["Dice"] == 1


def test_options_of_the_scores_are_used(tmp_path):
    small = np.zeros(scored.SHAPE, np.uint8)
    small[2:4, 2:4, 2:4] = 1
    folder = scored.write_masks(tmp_path / "p", {"p00": small})
    scores, _ = ForeignData(folder).score(folder, ScoreOptions(min_lesion_volume_mm3=10))
    assert scores["p00"].detection["n_ref"] == 0


def test_a_data_set_without_any_of_these_masks_is_refused(tmp_path, coarse_cohort):
    data = ForeignData.of_data_set(["read=msseg2", f"read.root={coarse_cohort}"], {})
    folder = scored.write_masks(tmp_path / "p", {"p00": scored.reference("p00")})
    with pytest.raises(MssegError, match=r"evaluate\.nothing"):
        data.score(folder, ScoreOptions())
    wrong = scored.write_masks(tmp_path / "w", {data.subjects[0].id: scored.reference("p00")})
    with pytest.raises(MssegError, match=r"evaluate\.grid"):
        data.score(wrong, ScoreOptions())

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.evaluate.case_score import ScoreOptions


def test_defaults_are_those_of_the_official_tool():
    options = ScoreOptions()
    assert options == ScoreOptions(3.0, 0.10, 0.70, 0.65)


def test_all_wrong_thresholds_are_named_at_once():
    with pytest.raises(MssegError) as caught:
        ScoreOptions(min_lesion_volume_mm3=-1.0, alpha=0.0, gamma=1.5)
    fields = {problem.field for problem in caught.value.problems}
    assert fields == {"min_lesion_volume_mm3", "alpha", "gamma"}
    assert caught.value.exit_code is ExitCode.CONFIG
    with pytest.raises(MssegError):
        ScoreOptions(beta=float("nan"))

import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.run.data.rater_ceiling import main, rater_ceiling


def test_the_oracle_scores_exactly_one(tiny_cohort, capsys):
    ceilings = {ceiling.name: ceiling for ceiling in rater_ceiling(tiny_cohort)}
    oracle = ceilings["oracle (the consensus itself)"].summary
    for measure in ("F1_score", "SensL", "PPVL", "Dice"):
        assert oracle.with_lesions.measures[measure].mean == 1.0
    assert oracle.without_lesions.false_lesions.mean == 0
    for number in (1, 2, 3, 4):
        rater = ceilings[f"rater {number}"].summary.with_lesions.measures
        assert 0.2 < rater["Dice"].mean < 1
    main(tiny_cohort)
    assert len(capsys.readouterr().out.splitlines()) == 2 + 6


def test_a_folder_without_a_cohort(tmp_path):
    with pytest.raises(MssegError, match="true_new_lesions"):
        rater_ceiling(tmp_path)

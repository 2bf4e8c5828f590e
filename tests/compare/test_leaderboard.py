import numpy as np
import pytest

from msseg_lightning.compare.leaderboard import (
    MEASURES,
    make_leaderboard,
    paragraphs,
    rank_agreement,
)
from msseg_lightning.compare.systems import read_systems
from msseg_lightning.evaluate.score import score_case
from msseg_lightning.evaluate.summary import summarise
from tests.compare import scored


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two systems with equal skill, one far behind, of which the first has two seeds."""
    root = tmp_path_factory.mktemp("runs")
    found = [
        scored.write_run(root, "one", scored.scores(0.9, 1)),
        scored.write_run(root, "one", scored.scores(0.9, 2), seed=1),
        scored.write_run(root, "two", scored.scores(0.9, 3)),
        scored.write_run(root, "poor", scored.scores(0.2, 4), trained_on=None),
    ]
    return [str(folder) for folder in found]


@pytest.fixture(scope="module")
def board(folders):
    return make_leaderboard(read_systems(folders))


def test_means_are_those_of_the_scores(board, folders):
    for seed, folder in enumerate(folders[2:3]):
        (system,) = read_systems([folder])
        means = summarise(system.seeds[seed]).with_lesions.measures
        assert board.result("f1", "two").mean == pytest.approx(means["F1_score"].mean)
        assert board.result("dice", "two").mean == pytest.approx(means["Dice"].mean)
    assert board.patients == (12, 4)
    assert set(board.comparisons) == set(MEASURES)
    assert board.comparisons["f1"].patients == tuple(f"p{n:02d}" for n in range(12))
    assert board.comparisons["false_lesions"].patients == tuple(f"p{n}" for n in range(12, 16))


def test_lesions_are_counted_as_the_mean_over_seeds(board):
    scores = [scored.scores(0.9, key) for key in (1, 2)]
    rows = [one.detection for seed in scores for one in seed.values() if one.has_new_lesions]
    line = board.lines["one"]
    assert line.true == 60 and line.seeds == 2
    assert line.found == sum(row["tp_ref"] for row in rows) / 2
    assert line.false == sum(row["n_test"] - row["tp_test"] for row in rows) / 2


def test_a_patient_is_clean_if_no_seed_marks_it(board):
    unclean = {
        case
        for key in (1, 2)
        for case, one in scored.scores(0.9, key).items()
        if one.official.get("NbTestedLesions")
    }
    assert board.lines["one"].clean == 4 - len(unclean)
    # exact, by hand: none of four is clean with 95 % up to 1 - 0.025^(1/4)
    poor = board.lines["poor"]
    assert poor.clean == 0 and poor.clean_interval == pytest.approx((0, 1 - 0.025**0.25))


def test_a_line_holds_lesions_by_trait_and_active_patients(board):
    line = board.lines["one"]
    assert line.groups["size"] and line.groups["contrast"] == line.groups["region"] == ()
    assert (line.activity.active, line.activity.inactive) == (12, 4)
    assert (
        board.reference == "consensus" and "against the consensus reference" in paragraphs(board)[0]
    )


def test_words_tell_what_can_be_told_apart_and_what_cannot(board):
    text = " ".join(paragraphs(board))
    assert "12 with new lesions, 4 without" in text
    leader, other = board.order[:2]
    assert {leader, other} == {"one", "two"} and board.order[2] == "poor"
    assert f"first place is open: {leader} leads, but cannot be told apart from {other}" in text
    assert "Of 3 pairs of systems 2 can be told apart, 1 cannot" in text
    assert f"{leader} over poor by" in text
    assert "show with 80 % power is 0." in text
    assert "no two of the 3 systems can be told apart on 4 patients without" in text
    assert "So few patients could not show a difference of any size" in text
    assert "These systems have one seed: " in text and "between the means of seeds: one 0." in text
    assert "Of poor it is not recorded what it was trained on" in text
    assert "left out" not in text


def test_a_clear_winner_is_called_so(folders):
    found = make_leaderboard(read_systems([folders[0], folders[3]]))
    assert "one is better than every other system" in " ".join(paragraphs(found))


def test_a_single_system_is_not_compared(folders):
    found = make_leaderboard(read_systems(folders[:1]))
    text = " ".join(paragraphs(found))
    assert "1 system on" in text and "told apart" not in text and "One seed each." in text


def test_pairs_that_were_left_out_are_named(tmp_path, folders):
    fewer = scored.write_run(tmp_path, "fewer", scored.scores(0.9, 6, scored.patients()[1:]))
    found = make_leaderboard(read_systems([*folders, str(fewer)], common=True))
    assert found.left_out == ("p00",) and found.patients == (11, 4)
    assert "1 pair that not every system scored is left out: p00." in paragraphs(found)


def test_other_measures_rank_too(folders):
    found = make_leaderboard(read_systems(folders), "dice")
    assert found.order == [one.system for one in found.comparisons["dice"].systems]
    assert "ranked by Dice" in paragraphs(found)[0]


def test_only_patients_without_lesions_are_compared_by_false_ones(tmp_path):
    cases = scored.patients()[12:]
    runs = [
        str(scored.write_run(tmp_path, name, scored.scores(skill, 1, cases)))
        for name, skill in (("a", 0.9), ("b", 0.1))
    ]
    found = make_leaderboard(read_systems(runs))
    assert set(found.comparisons) == {"false_lesions"} and found.rules == {}
    assert found.order[0] == "a" and found.lines["a"].groups["size"] == ()
    assert paragraphs(found)


def test_a_rule_can_turn_the_ranking(tmp_path):
    """One system finds every lesion by a tenth of its voxels, the other half of them in full."""

    def cases(shape):
        return {
            case: score_case(shape(case, scored.reference(case)), scored.reference(case), (1, 1, 1))
            for case in scored.patients(6, 0)
        }

    def touched(case, mask):
        few = np.zeros_like(mask)
        for lesion in range(scored.LESIONS):
            few[6 * lesion, 2:4, 2:4] = mask[6 * lesion, 2:4, 2:4]
        return few

    def half(case, mask):
        mask = mask.copy()
        mask[6 * scored.LESIONS // 2 :] = 0
        return mask

    runs = [
        str(scored.write_run(tmp_path, name, cases(shape)))
        for name, shape in (("touching", touched), ("outlining", half))
    ]
    found = make_leaderboard(read_systems(runs))
    assert found.rules["any overlap"].systems[0].system == "touching"
    assert found.rules["IoU 0.5"].systems[0].system == "outlining"
    official = found.rules["official"].systems[0].system
    turned = "IoU 0.5" if official == "touching" else "any overlap"
    assert rank_agreement(found, turned) == pytest.approx(-1)
    assert rank_agreement(found, "official") == pytest.approx(1)


def test_a_patient_with_only_too_small_lesions_has_no_sensitivity(tmp_path):
    found = scored.scores(0.9, 1)
    small = np.zeros(scored.SHAPE, np.uint8)
    small[0, 0, 0] = 1
    found["p00"] = score_case(small, small, scored.SPACING)
    board = make_leaderboard(read_systems([str(scored.write_run(tmp_path, "one", found))]))
    assert "p00" not in board.comparisons["sensitivity"].patients
    assert "p00" in board.comparisons["dice"].patients

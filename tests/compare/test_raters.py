import pytest

from msseg_lightning.compare.leaderboard import MEASURES, make_leaderboard, paragraphs
from msseg_lightning.compare.raters import read_raters
from msseg_lightning.compare.systems import read_systems
from tests.compare import scored

OFFICIAL = {name: (one.official, one.larger_is_better) for name, one in MEASURES.items()}
SKILLS = (0.5, 0.95, 0.7, 0.85)


@pytest.fixture(scope="module")
def scores():
    return scored.rater_scores(SKILLS)


@pytest.fixture(scope="module")
def systems(tmp_path_factory, scores):
    root = tmp_path_factory.mktemp("runs")
    found = [
        scored.write_run(root, "good", scored.scores(0.95, 1), raters=scores),
        scored.write_run(root, "poor", scored.scores(0.2, 2)),
    ]
    return read_systems([str(folder) for folder in found])


def test_raters_of_known_skill_are_ranked_by_it(systems):
    raters = read_raters(systems, OFFICIAL)
    assert (raters.recorded, raters.pairs) == (16, 16)
    order = [one.system for one in raters.others["f1"].systems]
    assert order == ["rater2", "rater4", "rater3", "rater1"]
    ends = raters.others["f1"].of("rater2"), raters.others["f1"].of("rater1")
    assert set(ends[0].letters).isdisjoint(ends[1].letters)  # the best and the worst differ


def test_a_consensus_that_holds_the_rater_flatters(systems):
    """Every rater gains from having contributed, on the same patients."""
    raters = read_raters(systems, OFFICIAL)
    for measure in ("f1", "dice"):
        for one in raters.others[measure].systems:
            assert raters.consensus[measure][one.system] > one.mean + 0.005, (measure, one.system)


def test_the_band_spans_the_raters(systems):
    raters = read_raters(systems, OFFICIAL)
    means = [one.mean for one in raters.others["dice"].systems]
    band = raters.band("dice")
    assert (band.low, band.high, band.raters) == (min(means), max(means), 4)
    assert band.mean == pytest.approx(sum(means) / 4)
    assert raters.band("unknown") is None


def test_no_band_unless_the_raters_of_every_pair_are_recorded(tmp_path, scores, systems):
    fewer = {rater: dict(list(rows.items())[1:]) for rater, rows in scores.items()}
    run = scored.write_run(tmp_path, "good", scored.scores(0.95, 1), raters=fewer)
    board = make_leaderboard(read_systems([str(run)]))
    assert board.raters.recorded == 15 and board.raters.band("f1") is None
    assert "recorded for 15 of 16 pairs" in " ".join(paragraphs(board))
    board = make_leaderboard(systems[1:])
    assert "not recorded" in " ".join(paragraphs(board))
    both = make_leaderboard(systems)
    text = " ".join(paragraphs(both))
    assert "4 raters, each against the majority of the others" in text
    assert "Of the systems 1 lie above this band, 0 inside it and 1 below" in text

import dataclasses
import xml.etree.ElementTree as ElementTree

from msseg_lightning.compare.froc import FrocCurve
from msseg_lightning.compare.leaderboard import make_leaderboard
from msseg_lightning.compare.leaderboard_pictures import TITLE, _costs, pictures
from msseg_lightning.compare.systems import read_systems
from tests.compare import scored


def board(root, systems, raters=None):
    runs = [
        str(scored.write_run(root, name, scored.scores(skill, 1), minutes=minutes, raters=raters))
        for name, skill, minutes in systems
    ]
    return make_leaderboard(read_systems(runs))


def test_pictures_are_equal_for_equal_leaderboards_and_sound(tmp_path):
    found = board(tmp_path, [("good", 0.9, 3.0), ("poor_" + "n" * 60, 0.3, 40.0)])
    drawn = pictures(found)
    assert list(drawn) == ["intervals", "ranks", "cost", "activity"]
    assert pictures(found) == drawn
    for text in drawn.values():
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert TITLE in text[:1000]  # by which they are known as files of this package


def test_curves_are_drawn_where_there_are_any(tmp_path):
    curve = FrocCurve((0.0, 0.5), (0.2, 0.4), (0.2,) * 6, 0.2, None)
    found = dataclasses.replace(board(tmp_path, [("good", 0.9, None)]), froc={"good": curve})
    assert list(pictures(found)) == ["intervals", "activity", "froc"]


def test_nothing_is_drawn_of_what_is_not_known(tmp_path):
    one = board(tmp_path / "a", [("good", 0.9, 3.0)])
    assert list(pictures(one)) == ["intervals", "activity"]
    unknown = board(tmp_path / "b", [("good", 0.9, 3.0), ("poor", 0.3, None)])
    assert list(pictures(unknown)) == ["intervals", "ranks", "activity"]


def test_the_band_of_the_raters_is_drawn_in_every_picture_of_scores(tmp_path):
    systems = [("good", 0.9, 3.0), ("poor", 0.3, 40.0)]
    plain = pictures(board(tmp_path / "a", systems))
    drawn = pictures(board(tmp_path / "b", systems, scored.rater_scores()))
    for name in ("intervals", "ranks", "cost"):
        assert "#e69f00" in drawn[name] and "#e69f00" not in plain[name]


def test_costs_are_of_processors_where_all_are_known(tmp_path):
    found = board(tmp_path, [("good", 0.9, 3.0), ("poor", 0.3, 40.0)])
    assert _costs(found) == ("Minutes", {"good": 3.0, "poor": 40.0})
    lines = {
        name: dataclasses.replace(line, cost=dataclasses.replace(line.cost, cpu_minutes=7.0))
        for name, line in found.lines.items()
    }
    assert _costs(dataclasses.replace(found, lines=lines))[0] == "CPU minutes"

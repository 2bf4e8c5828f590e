import pytest

from msseg_lightning.report.curves import curve_panels, nice_ticks


def rows(name, values):
    return [{"step": step, "name": name, "value": value} for step, value in enumerate(values)]


def test_train_and_val_share_a_panel_and_losses_come_first():
    panels = curve_panels(
        rows("val/dice", [0.1, 0.2]) + rows("train/loss", [2, 1]) + rows("val/loss", [2, 1.5])
    )
    assert len(panels) == 2
    assert panels[0].count("<polyline") == 2 and ">loss<" in panels[0]


def test_single_points_system_load_and_undefined_values_are_left_out():
    assert curve_panels(rows("test/dice", [0.5])) == []
    assert curve_panels(rows("system/cpu", [1, 2, 3])) == []
    (panel,) = curve_panels(rows("val/dice", [float("nan"), 0.1, 0.2]))
    assert "nan" not in panel
    assert curve_panels([]) == []


def test_a_flat_curve_and_a_long_one():
    (flat,) = curve_panels(rows("train/loss", [1.0, 1.0]))
    assert "polyline" in flat
    (long,) = curve_panels(rows("train/loss", [1.0 / (s + 1) for s in range(10_000)]))
    points = long.split('points="')[1].split('"')[0].split()
    assert len(points) <= 600


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0, 37, [0, 10, 20, 30]), (-1, 1, [-1, -0.5, 0, 0.5, 1]), (2, 2, [2])],
)
def test_ticks_are_round(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_the_kept_step_is_marked_with_its_own_value_not_the_last():
    (panel,) = curve_panels(rows("val/score", [0.1, 0.7, 0.5]), kept_step=1)
    assert 'class="kept"' in panel and "kept, step 2: val 0.7<" in panel
    for unknown in (None, 5):
        (panel,) = curve_panels(rows("val/score", [0.1, 0.7, 0.5]), kept_step=unknown)
        assert 'class="kept"' not in panel and ">val 0.5<" in panel


def test_one_of_two_equal_dice_curves_is_enough():
    same = rows("val/dice", [0.1, 0.2]) + rows("val/dice_or_empty", [0.1, 0.2])
    assert len(curve_panels(same)) == 1
    assert len(curve_panels(same + rows("val/dice_or_empty", [0.3, 0.4]))) == 2

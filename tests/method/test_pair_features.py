"""Features of voxels and candidates, by hand on a small pair."""

import numpy as np
import pytest

from msseg_lightning.core.candidates import Candidates
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import (
    BASELINE,
    BRAIN,
    FOLLOWUP,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.method.pair_features import PairFeatures

SHAPE = (14, 12, 9)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
NEW = (slice(5, 8), slice(5, 7), slice(4, 6))


def written(folder, shift=0.0):
    """A brain of 1 with noise, in which a box rises by 3, beside one that was bright before."""
    draw = np.random.default_rng(1)
    brain = np.zeros(SHAPE, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    baseline = np.where(brain, 1 + 0.05 * draw.random(SHAPE), 0)
    baseline[10:12, 8:10, 4:6] = 4
    followup = np.where(brain, baseline + 0.05 * draw.random(SHAPE) + shift, 0)
    followup[NEW] += 3
    followup[2, 2, 2] = 0  # beyond the field of view of one visit
    network = np.zeros(SHAPE)
    network[NEW] = 0.8
    volumes = {
        BASELINE: Volume(baseline.astype(np.float32), AFFINE),
        FOLLOWUP: Volume(followup.astype(np.float32), AFFINE),
        "network": Volume(network.astype(np.float32), AFFINE),
        "place_white": Volume(np.full(SHAPE, 0.7, np.float32), AFFINE),
        BRAIN: Volume(brain, AFFINE, "mask"),
    }
    subject = LongitudinalSubject("p", "p", {})
    loaded = LoadedSubject(subject, volumes, Native(Grid(SHAPE, AFFINE), b""))
    return PreparedSubject.write(loaded, folder / "p")


@pytest.fixture
def made(tmp_path):
    features = PairFeatures(images=["network", "place_white"], scales_mm=[2.0, 4.0, 8.0])
    pair = written(tmp_path)
    return features, pair, features.of_voxels(pair)


def test_a_row_for_each_voxel_that_both_visits_show(made):
    features, _, table = made
    assert table.inside.sum() == (SHAPE[0] - 2) * (SHAPE[1] - 2) * (SHAPE[2] - 2) - 1
    assert table.values.shape == (table.inside.sum(), len(features.voxel_names))
    assert len(set(features.voxel_names)) == len(features.voxel_names)
    assert np.isfinite(table.values).all()
    assert not table.image(np.ones(len(table.values)))[~table.inside].any()


def test_columns_by_hand(made):
    features, pair, table = made
    at = {
        name: table.image(table.values[:, column])
        for column, name in enumerate(features.voxel_names)
    }
    baseline, followup = pair.image(BASELINE), pair.image(FOLLOWUP)
    inside, middle = table.inside, (6, 6, 4)
    np.testing.assert_array_equal(at["baseline"][inside], baseline[inside])
    np.testing.assert_allclose(at["rise"][inside], (followup - baseline)[inside], atol=1e-6)
    assert at["rise_face0"][middle] == at["rise"][7, 6, 4]  # right, left, anterior, posterior, ...
    assert at["rise_face1"][middle] == at["rise"][5, 6, 4]
    assert at["followup_face5"][middle] == at["followup"][6, 6, 3]
    assert at["depth"][middle] == pytest.approx(10) and at["depth"][1, 6, 4] == pytest.approx(2)
    assert at["place_white"][middle] == pytest.approx(0.7, abs=1e-4)
    assert at["network"][middle] == pytest.approx(0.8, abs=1e-4)
    assert 0.2 < at["network_2mm"][middle] < 0.79
    assert "place_white_2mm" not in at
    # smoothed within the brain alone: a brain of one value stays at it up to its border
    border = at["baseline_2mm"][1, 1, 1]
    assert border == pytest.approx(1.025, abs=0.03)
    assert at["rise_median"][NEW].max() < 0.1  # 12 of 27 voxels rise
    assert at["rise_least"][6, 6, 5] > 2.9 and at["rise_least"][5, 6, 5] < 0.1
    assert at["slope"][9, 8, 4] > 0.7 > 0.1 > at["slope"][3, 3, 3]
    assert at["baseline_over_8mm"][10, 8, 4] > 1


def test_candidates_by_hand(made):
    features, pair, table = made
    mask = np.zeros(SHAPE, bool)
    mask[NEW] = mask[10:12, 8:10, 4:6] = True
    probability = np.zeros(SHAPE, np.float32)
    probability[NEW], probability[10:12, 8:10, 4:6] = 0.6, 0.3
    probability[6, 6, 4] = 0.9
    candidates = Candidates.of(mask, pair.grid.spacing_mm, 6)
    rows = features.of_candidates(table, probability, candidates)
    assert rows.shape == (2, len(features.candidate_names))
    new = int(candidates.labels[6, 6, 4]) - 1
    told = dict(zip(features.candidate_names, rows[new], strict=True))
    old = dict(zip(features.candidate_names, rows[1 - new], strict=True))
    assert told["probability_most"] == pytest.approx(0.9)
    assert told["probability_mean"] == pytest.approx((11 * 0.6 + 0.9) / 12, rel=1e-5)
    assert told["volume_mm3"] == 12 * 12 and old["volume_mm3"] == 8 * 12
    assert (told["rank"], old["rank"], told["rivals"]) == (0, 1, 2)
    # three voxels of 2 mm: positions 0 2 4, variance 8/3; two of 3 mm: 2.25; two of 2 mm: 1
    axes = [told[f"axis_{name}_mm"] for name in ("least", "middle", "most")]
    np.testing.assert_allclose(axes, [4, 6, 4 * np.sqrt(8 / 3)], rtol=1e-5)
    assert told["mean_rise"] == pytest.approx(3, abs=0.1) and old["mean_rise"] < 1
    assert old["mean_baseline"] == pytest.approx(4, abs=0.01)
    assert told["shell_rise"] < 0.2 and told["shell_probability"] == 0
    assert told["most_network"] == pytest.approx(0.8, abs=1e-4) and old["most_network"] == 0


def test_no_candidate_has_no_row_and_a_single_voxel_has_no_axes(made):
    features, pair, table = made
    nothing = np.zeros(SHAPE, np.float32)
    none = Candidates.of(nothing > 0, pair.grid.spacing_mm)
    assert features.of_candidates(table, nothing, none).shape == (0, len(features.candidate_names))
    one = nothing > 0
    one[6, 6, 4] = True
    (row,) = features.of_candidates(table, nothing, Candidates.of(one, pair.grid.spacing_mm))
    told = dict(zip(features.candidate_names, row, strict=True))
    assert told["axis_most_mm"] == 0 and told["volume_mm3"] == 12 and np.isfinite(row).all()


def test_a_pair_of_nothing_has_no_rows(tmp_path):
    pair = written(tmp_path)
    dark = np.zeros(SHAPE, np.float32)
    volumes = {
        name: Volume(dark, AFFINE) for name in (BASELINE, FOLLOWUP, "network", "place_white")
    }
    volumes[BRAIN] = Volume(pair.mask(BRAIN), AFFINE, "mask")
    loaded = LoadedSubject(LongitudinalSubject("q", "q", {}), volumes, pair.native)
    table = PairFeatures(images=["network"]).of_voxels(
        PreparedSubject.write(loaded, tmp_path / "q")
    )
    assert not table.inside.any() and len(table.values) == 0

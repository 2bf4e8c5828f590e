import math

import pytest

from msseg_lightning.simulate.physics import Tissue, flair_signal, tissues


def test_signal_by_hand():
    # density 0.5, T1 = 1000, T2 = 100, TR 4000, TE 100, TI 1000:
    # 1 - 2 e^-1 + e^-4 = 1 - 0.7357589 + 0.0183156 = 0.2825567; times e^-1 = 0.1039468, half
    assert flair_signal(Tissue(1000, 100, 0.5), 4000, 100, 1000) == pytest.approx(
        0.05197341, abs=1e-8
    )


def test_signal_is_a_magnitude():
    # at TI = 0 the magnetisation is inverted: |1 - 2 + e^-4| = 0.9816844, TE 0
    assert flair_signal(Tissue(1000, 100, 1.0), 4000, 0, 0) == pytest.approx(0.9816844, abs=1e-7)


def test_a_fluid_is_nulled_at_its_null_time():
    tr, t1 = 5000.0, 4300.0
    null = t1 * math.log(2 / (1 + math.exp(-tr / t1)))
    assert flair_signal(Tissue(t1, 1800, 1.0), tr, 120, null) == pytest.approx(0, abs=1e-12)


def test_without_inversion_only_saturation_is_left():
    # efficiency -1 switches the pulse off: 1 - 0 - e^(-TR/T1)
    signal = flair_signal(Tissue(1000, 100, 1.0), 1000, 0, 500, inversion=-1.0)
    assert signal == pytest.approx(1 - math.exp(-1))


@pytest.mark.parametrize("field", [1.5, 3.0])
def test_flair_order_of_brain_tissues(field):
    table = tissues(field)
    signal = {
        name: flair_signal(table[name], 6000, 120, 1960)
        for name in ("white", "grey", "csf", "plaque")
    }
    assert signal["csf"] < 0.3 * signal["white"] < signal["white"] < signal["grey"]
    mixed = flair_signal(table["white"].mixed_with(table["plaque"], 0.4), 6000, 120, 1960)
    assert mixed > 1.25 * signal["white"]


def test_mixing_ends_at_both_tissues():
    a, b = Tissue(800, 80, 0.7), Tissue(1800, 220, 0.9)
    for share, end in ((0.0, a), (1.0, b)):
        mixed = a.mixed_with(b, share)
        assert (mixed.t1_ms, mixed.t2_ms, mixed.density) == pytest.approx(
            (end.t1_ms, end.t2_ms, end.density)
        )
    assert a.mixed_with(b, 0.5).t1_ms == pytest.approx(1200)  # geometric mean

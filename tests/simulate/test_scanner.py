from collections import Counter

import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.simulate.physics import tissues
from msseg_lightning.simulate.scanner import SCANNERS, scanners_named


def test_vendors_as_in_the_challenge():
    profiles = scanners_named("ge", "philips", "siemens")
    assert Counter(scanner.vendor for scanner in profiles) == {"GE": 3, "Philips": 6, "Siemens": 6}
    assert {scanner.field_strength_t for scanner in profiles} == {1.5, 3.0}
    assert all(0.5 <= edge <= 1.2 for scanner in profiles for edge in scanner.spacing_mm)
    assert not any(scanner.thick_slices for scanner in profiles)
    assert all(scanner.thick_slices for scanner in scanners_named("slices"))


@pytest.mark.parametrize("scanner", SCANNERS.values(), ids=lambda scanner: scanner.name)
def test_every_protocol_is_a_flair(scanner):
    table = tissues(scanner.field_strength_t)
    assert scanner.signal(table["white"]) == pytest.approx(1)
    assert scanner.signal(table["csf"]) < 0.15
    assert 1.03 < scanner.signal(table["grey"]) < 1.35
    lesion = table["white"].mixed_with(table["plaque"], 0.3)
    assert scanner.signal(lesion) > scanner.signal(table["grey"])


def test_unknown_scanner():
    with pytest.raises(MssegError) as caught:
        scanners_named("ge", "hitachi")
    assert caught.value.exit_code == ExitCode.CONFIG
    assert "hitachi" in str(caught.value)

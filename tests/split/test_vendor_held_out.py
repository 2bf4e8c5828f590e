from __future__ import annotations

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.split.vendor_held_out import VendorHeldOut
from tests.split.parts import names, refused


def test_vendor_is_held_out(make):
    subjects = make(names(9), vendors=("Siemens", "Philips", "GE"))
    split = VendorHeldOut("ge").split(subjects)
    assert set(split.test) == {"p02", "p05", "p08"}
    assert refused(lambda: VendorHeldOut("Canon").split(subjects)) is ExitCode.DATA

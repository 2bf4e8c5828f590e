from __future__ import annotations

import pytest

from msseg_lightning.core.subject import BASELINE, FOLLOWUP, Facts, LongitudinalSubject


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"\x1f\x8b" + bytes(100))
    return path


@pytest.fixture
def make(scan):
    def pairs(names, vendors=("Siemens", "Philips"), reverse=False):
        found = []
        for number, name in enumerate(names):
            for suffix in ("", "_reversed") if reverse else ("",):
                found.append(
                    LongitudinalSubject(
                        id=name + suffix,
                        patient=name,
                        images={BASELINE: scan, FOLLOWUP: scan},
                        facts=Facts(vendor=vendors[number % len(vendors)] if vendors else None),
                    )
                )
        return found

    return pairs

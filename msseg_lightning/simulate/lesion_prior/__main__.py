"""Derive lesion statistics: ``python -m msseg_lightning.simulate.lesion_prior ROOT OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

from msseg_lightning.simulate.lesion_prior.statistics import derive_statistics

if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    derive_statistics(Path(sys.argv[1])).write(Path(sys.argv[2]))

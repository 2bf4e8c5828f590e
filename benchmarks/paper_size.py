"""Every system at its paper's own size: ``benchmarks.studies.paper_size`` by a short name."""

from __future__ import annotations

import sys

from benchmarks.studies.paper_size import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m msseg_lightning`` is ``msseg``."""

import sys

from msseg_lightning.cli.main import main

sys.exit(main())

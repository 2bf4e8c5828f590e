"""Print an experiment's card and every setting after composition."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from msseg_lightning.core.problem import ExitCode

EXAMPLES = """\
examples
  msseg show pre_unet
  msseg show pre_unet size=cpu train.steps=1000        what a run with these overrides would use
  msseg show segresnet_shallow loss=dice_focal_deep    another preset of conf/loss/
  msseg show ./mine.yaml network=./net.yaml           files of your own: docs/own_files.md

??? marks settings without a default, such as read.root=FOLDER.
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Print the composed configuration as YAML."""
    parser = argparse.ArgumentParser(
        prog="msseg show",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", help="a name from `msseg list`, or a file")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    options = parser.parse_intermixed_args(arguments)

    import yaml

    from msseg_lightning.run.config.compose import compose_config

    config = compose_config(options.overrides, options.experiment, complete=False)
    sys.stdout.write(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100))
    return ExitCode.OK

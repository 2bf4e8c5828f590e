"""Prepare all pairs of a data set for an experiment, ahead of training or predicting."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from msseg_lightning.core.problem import ExitCode
from msseg_lightning.run.shard import SHARD_HELP, Shard

EXAMPLES = """\
examples
  msseg prepare pre_unet read.root=/data/msseg2 data.workers=8     eight processes of this machine
  msseg prepare pre_unet read.root=/data/msseg2 --shard 1/4        a quarter, on any machine
  msseg prepare pre_unet read.root=/data/msseg2 launcher=slurm launcher.array=50

Existing pairs are kept: the same command again prepares what is missing. Prepared pairs are stored
in paths.cache (cache) by the content of the scans and the preprocessing, and are used by every
run and prediction with the same preprocessing. A pair that is refused is listed and skipped.
exit codes: 0 complete, 2 wrong settings, 9 some pairs were refused
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Prepare all missing pairs."""
    parser = argparse.ArgumentParser(
        prog="msseg prepare",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", help="a name from `msseg list`, or a file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="see `msseg show`"
    )
    parser.add_argument("--shard", type=Shard.parse, metavar="I/N", help=SHARD_HELP)
    options = parser.parse_intermixed_args(arguments)

    from msseg_lightning.run.config.compose import compose_config
    from msseg_lightning.run.data.prepare import prepare_data_set

    config = compose_config(options.overrides, options.experiment)
    mapped = prepare_data_set(config, options.shard)
    log = logging.getLogger("msseg")
    for name, error in mapped.failed.items():
        for problem in error.problems:
            log.error("%s: %s", name, problem)
    total = len(mapped.done) + len(mapped.failed)
    sys.stdout.write(
        f"{len(mapped.done)} of {total} pairs prepared in {config['paths']['cache']}\n"
    )
    if mapped.failed:
        sys.stderr.write(f"left out: {', '.join(mapped.failed)}; the same command tries again\n")
        return ExitCode.PARTIAL
    return ExitCode.OK

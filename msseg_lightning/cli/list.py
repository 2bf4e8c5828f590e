"""List the systems: family, stages and what their papers report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from msseg_lightning.core.problem import ExitCode

EXAMPLES = """\
examples
  msseg list                     a table of every system
  msseg list --json              the same for programs, with everything on the cards
  msseg show pre_unet            one system in full
"""


def main(arguments: Sequence[str]) -> ExitCode:
    """Print the cards."""
    parser = argparse.ArgumentParser(
        prog="msseg list",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per system")
    options = parser.parse_args(arguments)

    from msseg_lightning.run.config.cards import read_cards

    cards = read_cards()
    if options.json:
        sys.stdout.write(json.dumps(cards, indent=2) + "\n")
        return ExitCode.OK
    rows = [("id", "experiment", "family", "stages", "reported")] + [
        (
            card["id"],
            card["name"],
            card["family"],
            " > ".join(card["stages"]),
            headline(card["reported"]),
        )
        for card in cards
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[-1]]).rstrip() + "\n")
    return ExitCode.OK


def headline(reported: dict[str, object]) -> str:
    """The first reported figures of a card."""
    from msseg_lightning.core.wording import reported_text

    figures = {name: value for name, value in reported.items() if name != "protocol"}
    return reported_text(figures, in_full=False) or "none reported"

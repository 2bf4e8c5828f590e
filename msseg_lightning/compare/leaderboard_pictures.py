"""Pictures of a leaderboard: intervals, ranks, and score against cost."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from msseg_lightning.compare.froc import OPERATING_POINTS
from msseg_lightning.compare.leaderboard import MEASURES, Leaderboard

TITLE = "msseg compare"
"""In the metadata of every picture, which marks it as one of this package."""

_BLUE, _GREY = "#0072b2", "#5c6670"
_RATERS, _RATERS_TEXT = "#e69f00", "#8a5d00"
_WIDTH = 6.2
_ROW = 0.3
_CURVES = 10
"""Curves in one picture at most."""
_SHORTEST = 8
"""Ranks up to which every rank has a tick."""


def pictures(board: Leaderboard) -> dict[str, str]:
    """Name -> SVG text; ``cost`` only where minutes are known, ``froc`` only with curves.

    Equal leaderboards give equal pictures, byte for byte.
    """
    import matplotlib

    matplotlib.use("Agg")
    drawn = {}
    with matplotlib.rc_context(
        {
            "svg.hashsalt": TITLE,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        if board.measure in board.comparisons:
            drawn["intervals"] = _svg(_intervals(board))
            if len(board.lines) > 1:
                drawn["ranks"] = _svg(_ranks(board))
            if sum(line.cost.minutes is not None for line in board.lines.values()) > 1:
                drawn["cost"] = _svg(_cost(board))
            if board.froc:
                drawn["froc"] = _svg(_froc(board))
    return drawn


def _svg(figure: Any) -> str:
    from matplotlib import pyplot

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": TITLE})
    pyplot.close(figure)
    return buffer.getvalue()


def _figure(rows: int) -> tuple[Any, Any]:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(_WIDTH, 1.1 + _ROW * max(rows, 3)), layout="constrained")


def _intervals(board: Leaderboard) -> Any:
    """Mean and interval of every system, with its letters on the right."""
    found = board.comparisons[board.measure]
    figure, axis = _figure(len(found.systems))
    names = [one.system for one in found.systems]
    for place, one in enumerate(found.systems):
        if one.interval is not None:
            axis.plot(one.interval, (place, place), color=_BLUE, linewidth=2.2)
        axis.plot(one.mean, place, "o", color=_BLUE, markersize=6)
    _draw_raters(axis, board, board.measure, axis.axvspan, axis.axvline)
    axis.set_yticks(range(len(names)), [_short(name) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel(f"{MEASURES[board.measure].title}, 95 % interval")
    axis.grid(axis="x", color="#e8ebee")
    axis.set_axisbelow(True)
    letters = axis.secondary_yaxis("right")
    letters.set_yticks(range(len(names)), [one.letters for one in found.systems])
    letters.tick_params(length=0)
    letters.spines["right"].set_visible(False)
    return figure


def _draw_raters(
    axis: Any,
    board: Leaderboard,
    measure: str,
    area: Callable[..., Any],
    line: Callable[..., Any],
) -> None:
    """The raters' band as an area from the lowest to the highest, with a line at their mean."""
    band = board.raters.band(measure)
    if band is None:
        return
    area(band.low, band.high, color=_RATERS, alpha=0.15, linewidth=0, zorder=0)
    line(band.mean, color=_RATERS, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0.5)
    axis.set_title(
        f"Orange: {band.raters} raters, each against the majority of the others",
        fontsize=8.5,
        color=_RATERS_TEXT,
        loc="left",
    )


def _ranks(board: Leaderboard) -> Any:
    """Share of the bootstrap samples in which a system has a rank, as areas of dots."""
    found = board.comparisons[board.measure]
    names = [one.system for one in found.systems]
    figure, axis = _figure(len(names))
    largest = min(240.0, 4500.0 / len(names))
    for place, one in enumerate(found.systems):
        ranks = [rank for rank, share in enumerate(one.ranks, 1) if share >= 0.005]
        areas = [largest * one.ranks[rank - 1] for rank in ranks]
        axis.plot(one.rank_interval, (place, place), color=_GREY, linewidth=0.9, zorder=1)
        axis.scatter(ranks, [place] * len(ranks), s=areas, color=_BLUE, linewidths=0, zorder=2)
    band = board.raters.band(board.measure)
    if band is not None:
        better = sum(one.mean > band.mean for one in found.systems)
        axis.axhline(better - 0.5, color=_RATERS, linewidth=1.2, linestyle=(0, (4, 3)))
        axis.set_title(
            "Orange: systems above it have a better mean than the mean rater",
            fontsize=8.5,
            color=_RATERS_TEXT,
            loc="left",
        )
    axis.set_yticks(range(len(names)), [_short(name) for name in names])
    axis.set_ylim(len(names) - 0.4, -0.6)
    step = 1 if len(names) <= _SHORTEST else 5
    ticks = sorted({1, *range(step, len(names) + 1, step)})
    axis.set_xticks(ticks)
    axis.set_xlim(0.4, len(names) + 0.6)
    axis.set_xlabel("Rank; area: share of the bootstrap samples, line: 95 %")
    axis.grid(axis="x", color="#e8ebee")
    axis.set_axisbelow(True)
    return figure


def _cost(board: Leaderboard) -> Any:
    """Mean and interval over the minutes of fitting."""
    from matplotlib import ticker

    found = board.comparisons[board.measure]
    figure, axis = _figure(12)
    known = [
        (minutes, one)
        for one in found.systems
        if (minutes := board.lines[one.system].cost.minutes) is not None
    ]
    known.sort(key=lambda item: item[0])
    for index, (minutes, one) in enumerate(known):
        if one.interval is not None:
            axis.plot((minutes, minutes), one.interval, color=_BLUE, linewidth=1, alpha=0.5)
        axis.plot(minutes, one.mean, "o", color=_BLUE, markersize=5)
        axis.annotate(
            _short(one.system),
            (minutes, one.mean),
            xytext=(5, -11 if index % 2 else 3),  # neighbours do not cover each other
            textcoords="offset points",
            fontsize=8,
        )
    _draw_raters(axis, board, board.measure, axis.axhspan, axis.axhline)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set_xlabel("Minutes of fitting, all folds of one seed")
    axis.set_ylabel(MEASURES[board.measure].title)
    axis.margins(x=0.15)
    axis.grid(color="#e8ebee")
    axis.set_axisbelow(True)
    return figure


def _froc(board: Leaderboard) -> Any:
    """Free-response curves of the best systems."""
    from matplotlib import colormaps

    figure, axis = _figure(12)
    names = [name for name in board.order if name in board.froc][:_CURVES]
    for index, name in enumerate(names):
        curve = board.froc[name]
        colour = colormaps["tab10"](index)
        axis.plot(
            curve.false_per_patient,
            curve.sensitivity,
            drawstyle="steps-post",
            color=colour,
            linewidth=1.6,
            label=_short(name),
        )
        axis.plot(
            curve.false_per_patient[-1], curve.sensitivity[-1], "o", color=colour, markersize=4
        )
    _draw_raters(axis, board, "sensitivity", axis.axhspan, axis.axhline)
    axis.set_xscale("symlog", linthresh=0.125)
    axis.set_xlim(left=0)
    axis.set_xticks(ticks := (0, *OPERATING_POINTS), [f"{tick:g}" for tick in ticks])
    axis.set_ylim(0, 1)
    axis.set_xlabel("False lesions per patient; the dot is where the system works")
    axis.set_ylabel("Lesion sensitivity")
    axis.grid(color="#e8ebee")
    axis.set_axisbelow(True)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:29]}\u2026"


ALTERNATIVES: Mapping[str, str] = {
    "intervals": "Mean and 95 % interval of every system, with the letters of its groups",
    "ranks": "Distribution of the rank of every system over the bootstrap samples",
    "froc": "Lesion sensitivity over false lesions per patient, of the first ten systems",
    "cost": "Mean and 95 % interval of every system over its minutes of fitting",
}
"""Name of a picture -> what it shows."""

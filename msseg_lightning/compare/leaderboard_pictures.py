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
            if sum(cost is not None for cost in _costs(board)[1].values()) > 1:
                drawn["cost"] = _svg(_cost(board))
            if any(line.activity is not None for line in board.lines.values()):
                drawn["activity"] = _svg(_activity(board))
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
            "Orange: the mean rater would stand here",
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


def _costs(board: Leaderboard) -> tuple[str, dict[str, float | None]]:
    """Unit and cost of every system: minutes of processors, or of the clock if one has none."""
    cpu = {name: line.cost.cpu_minutes for name, line in board.lines.items()}
    if None not in cpu.values():
        return "CPU minutes", cpu
    return "Minutes", {name: line.cost.minutes for name, line in board.lines.items()}


def _activity(board: Leaderboard) -> Any:
    """Curves of the volume of predicted lesions, of the best systems, and where they work."""
    from matplotlib import colormaps

    figure, axis = _figure(12)
    axis.plot((0, 1), (0, 1), color=_GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    shown = [
        (name, one, roc)
        for name in board.order
        if (one := board.lines[name].activity) is not None
        and (roc := one.rocs["predicted volume"]) is not None
    ][:_CURVES]
    for index, (name, one, roc) in enumerate(shown):
        colour = colormaps["tab10"](index)
        axis.plot(
            roc.false_alarms,
            roc.found,
            color=colour,
            linewidth=1.6,
            label=f"{_short(name)}: {roc.area:.2f}",
        )
        at = one.inactive_marked / one.inactive, one.active_marked / one.active
        axis.plot(*at, "o", color=colour, markersize=5)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("Patients without new lesions above a volume; dot: with any mark")
    axis.set_ylabel("Patients with new lesions")
    axis.grid(color="#e8ebee")
    axis.set_axisbelow(True)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _cost(board: Leaderboard) -> Any:
    """Mean and interval over the minutes of fitting."""
    from matplotlib import ticker

    found = board.comparisons[board.measure]
    figure, axis = _figure(max(12, round(0.6 * len(found.systems))))
    unit, costs = _costs(board)
    names = []
    for place, one in enumerate(found.systems, 1):
        minutes = costs[one.system]
        if minutes is None or minutes <= 0:
            continue
        if one.interval is not None:
            axis.plot((minutes, minutes), one.interval, color=_BLUE, linewidth=1, alpha=0.5)
        axis.plot(minutes, one.mean, "o", color=_BLUE, markersize=5)
        axis.annotate(
            str(place), (minutes, one.mean), (4, 3), textcoords="offset points", fontsize=8.5
        )
        names.append(f"{place}  {_short(one.system)}")
    axis.text(
        1.03, 1, "\n".join(names), transform=axis.transAxes, va="top", fontsize=8, linespacing=1.35
    )
    _draw_raters(axis, board, board.measure, axis.axhspan, axis.axhline)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set_xlabel(f"{unit} of fitting, all folds of one seed")
    axis.set_ylabel(MEASURES[board.measure].title)
    axis.margins(x=0.08)
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
    "activity": "Patients with new lesions over patients without, by the volume predicted for them",
    "cost": "Mean and 95 % interval of every system over what fitting cost",
}
"""Name of a picture -> what it shows."""

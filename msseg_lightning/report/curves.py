"""Learning curves as small SVG pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Points = list[tuple[float, float]]

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 34
COLOURS = {"train": "#8a8f98", "val": "#0072b2", "test": "#d55e00"}
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MAX_POINTS = 600
HIDDEN = ("system/",)


def curve_panels(
    rows: Sequence[Mapping[str, Any]], kept_step: int | None = None, limit: int = 9
) -> list[str]:
    """One SVG per measure: ``train/loss`` and ``val/loss`` share the panel ``loss``.

    Args:
        rows: ``step``, ``name`` and ``value``; values that are not finite are left out.
        kept_step: step of the rows after which the kept weights were taken; None where unknown.
        limit: panels at most, losses first.
    """
    panels: dict[str, dict[str, Points]] = {}
    for row in rows:
        name, value = str(row["name"]), float(row["value"])
        if math.isfinite(value) and not name.startswith(HIDDEN):
            stage, _, measure = name.rpartition("/")
            lines = panels.setdefault(measure, {})
            lines.setdefault(stage or measure, []).append((float(row["step"]), value))
    # A single point (a final test score) is no curve.
    drawn = {
        measure: {stage: sorted(points) for stage, points in lines.items()}
        for measure, lines in panels.items()
        if any(len({step for step, _ in points}) > 1 for points in lines.values())
    }
    if drawn.get("dice_or_empty") == drawn.get("dice"):  # no pair without lesions was validated
        drawn.pop("dice_or_empty", None)
    order = sorted(drawn, key=lambda measure: ("loss" not in measure, measure))
    return [_panel(measure, drawn[measure], kept_step) for measure in order[:limit]]


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) between two values.

    >>> nice_ticks(0.0, 1.0)
    [0.0, 0.5, 1.0]
    """
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _panel(measure: str, lines: Mapping[str, Points], kept_step: int | None) -> str:
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points]
    x0, x1 = min(steps), max(steps)
    y0, y1 = _limits(values, is_share="loss" not in measure)

    def x(step: float) -> float:
        return LEFT + (step - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(measure)} by step">'
        f'<text x="{LEFT}" y="16" class="title">{escape(measure.replace("_", " "))}</text>'
    ]
    for tick in nice_ticks(y0, y1):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" '
            f'y2="{y(tick):.1f}"/><text class="tick" text-anchor="end" x="{LEFT - 6}" '
            f'y="{y(tick) + 4:.1f}">{tick:g}</text>'
        )
    for tick in nice_ticks(x0, x1):
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x(tick):.1f}" '
            f'y="{HEIGHT - BOTTOM + 16}">{tick:g}</text>'
        )
    parts.append(
        f'<text class="tick" text-anchor="end" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}">step</text>'
    )
    end = WIDTH - RIGHT
    for index, (stage, points) in enumerate(sorted(lines.items(), reverse=True)):
        colour = COLOURS.get(stage, OTHERS[index % len(OTHERS)])
        label = stage
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in _thinned(points))
        parts.append(f'<polyline fill="none" stroke="{colour}" points="{path}"/>')
        marked_step, marked = points[-1]
        kept = [value for step, value in points if step == kept_step]
        if stage == "val" and kept_step is not None and kept:
            marked_step, marked, label = kept_step, kept[0], f"kept, step {kept_step + 1}: val"
            parts.append(
                f'<line class="kept" stroke="{colour}" x1="{x(marked_step):.1f}" '
                f'x2="{x(marked_step):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            )
        parts.append(
            f'<circle r="{4 if kept and stage == "val" else 2.5}" fill="{colour}" '
            f'cx="{x(marked_step):.1f}" cy="{y(marked):.1f}"/>'
        )
        parts.append(
            f'<text class="key" text-anchor="end" fill="{colour}" x="{end}" y="16">'
            f"{escape(label)} {marked:.3g}</text>"
        )
        end -= 7 * (len(label) + 6) + 6
    return "".join([*parts, "</svg>"])


def _limits(values: Sequence[float], is_share: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if is_share and low >= 0 and high <= 1 and high > 0.2:
        return 0.0, 1.0  # shares are read against their full range
    if 0 <= low < 0.5 * high:
        low = 0.0
    margin = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - margin), high + margin


def _thinned(points: Points) -> Points:
    """Long curves by the mean of neighbours: a screen has no more pixels."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(step for step, _ in group) / len(group), sum(value for _, value in group) / len(group))
        for group in groups
    ]

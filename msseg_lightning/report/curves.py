"""Learning curves as small SVG pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from msseg_lightning.report.page import piece

Points = list[tuple[float, float]]

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 34
COLOURS = {"train": "#8a8f98", "val": "#0072b2", "test": "#d55e00"}
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MAX_POINTS = 600
HIDDEN = ("system/",)


def curve_panels(
    rows: Sequence[Mapping[str, Any]], kept_step: int | None = None, limit: int = 9
) -> list[Markup]:
    """SVG charts, one per measure; ``train/loss`` and ``val/loss`` share the chart ``loss``.

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


def _panel(measure: str, lines: Mapping[str, Points], kept_step: int | None) -> Markup:
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points]
    x0, x1 = min(steps), max(steps)
    y0, y1 = _limits(values, is_share="loss" not in measure)

    def x(step: float) -> float:
        return LEFT + (step - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    drawn = []
    end = WIDTH - RIGHT
    for index, (stage, points) in enumerate(sorted(lines.items(), reverse=True)):
        label = stage
        marked_step, marked = points[-1]
        kept = [value for step, value in points if step == kept_step]
        is_kept = stage == "val" and kept_step is not None and bool(kept)
        if is_kept and kept_step is not None:
            marked_step, marked, label = kept_step, kept[0], f"kept, step {kept_step + 1}: val"
        drawn.append(
            {
                "colour": COLOURS.get(stage, OTHERS[index % len(OTHERS)]),
                "points": " ".join(
                    f"{x(step):.1f},{y(value):.1f}" for step, value in _thinned(points)
                ),
                "kept": is_kept,
                "x": round(x(marked_step), 1),
                "y": round(y(marked), 1),
                "end": end,
                "label": f"{label} {marked:.3g}",
            }
        )
        end -= 7 * (len(label) + 6) + 6
    panel = {
        "measure": measure,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "y_ticks": [(round(y(tick), 1), f"{tick:g}") for tick in nice_ticks(y0, y1)],
        "x_ticks": [(round(x(tick), 1), f"{tick:g}") for tick in nice_ticks(x0, x1)],
        "lines": drawn,
    }
    return piece("curve", panel)


def _limits(values: Sequence[float], is_share: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if is_share and low >= 0 and high <= 1 and high > 0.2:
        return 0.0, 1.0  # shares are read against their full range
    if 0 <= low < 0.5 * high:
        low = 0.0
    margin = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - margin), high + margin


def _thinned(points: Points) -> Points:
    """Shorten long curves by averaging neighbours."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(step for step, _ in group) / len(group), sum(value for _, value in group) / len(group))
        for group in groups
    ]

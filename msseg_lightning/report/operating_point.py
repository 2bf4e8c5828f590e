"""Section of a page on an operating point and the calibration of lesion probabilities."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from msseg_lightning.report import page

HOW = (
    "Each point holds as many predicted lesions as the others of its line; on the diagonal the "
    "stated probability is the share of true lesions. Probabilities are of calibrations that had "
    "not seen the lesion's patient. A Brier score is the mean squared difference of probability "
    "and truth: 0 is best, and 0.25 is that of always one half."
)


def operating_point_section(words: str, known: Mapping[str, Any]) -> Markup:
    """The point in words with the reliability diagram of its lesions.

    Args:
        words: what the point is and what it was chosen on.
        known: ``lesions``, ``true``, ``brier_before``, ``brier_after`` and the bins ``before`` and
            ``after``, each with ``lesions``, ``probability`` and ``right``.
    """
    if not known.get("lesions"):
        return page.piece("section", "Operating point", [words])
    scores = (
        f"Brier score by lesion: {known['brier_before']:.3f} of the scores, "
        f"{known['brier_after']:.3f} of the calibrated probabilities ({known['lesions']} predicted "
        f"lesions, {known['true']} of them true)."
    )
    picture = reliability_picture(known["before"], known["after"])
    source = "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode()
    alternative = "Reliability diagram: share of true lesions over stated probability"
    body = page.piece("pictures", [(alternative, source)])
    return page.piece("section", "Operating point", [f"{words}.", scores, HOW], body)


def reliability_picture(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> str:
    """Reliability diagram as SVG text; equal bins give an equal picture.

    Args:
        before: bins of the scores.
        after: bins of the calibrated probabilities.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(
        {
            "svg.hashsalt": page.GENERATOR,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        figure, axes = pyplot.subplots(figsize=(6.8, 3.3), layout="constrained")
        axes.plot([0, 1], [0, 1], color="#b8bfc6", linewidth=1)
        for bins, colour, marker, label in (
            (before, "#5c6670", "s", "score"),
            (after, "#0072b2", "o", "calibrated"),
        ):
            axes.plot(
                [one["probability"] for one in bins],
                [one["right"] for one in bins],
                color=colour,
                marker=marker,
                label=label,
            )
        axes.set(
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            xlabel="stated probability of a true lesion",
            ylabel="share of true lesions",
            aspect="equal",
        )
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.05, 0.5))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": page.GENERATOR})
        pyplot.close(figure)
    return buffer.getvalue()

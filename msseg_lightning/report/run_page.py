"""Report of one run as an HTML file: settings, scores, curves and lesions."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from msseg_lightning.core.files import atomic_write
from msseg_lightning.core.lesion import label_lesions
from msseg_lightning.core.outputs import refuse_overwrites
from msseg_lightning.core.volume import Volume
from msseg_lightning.core.wording import counted
from msseg_lightning.evaluate.case_score import CaseScore, Lesion
from msseg_lightning.report import page
from msseg_lightning.report.curves import curve_panels
from msseg_lightning.report.picture import CasePictures, CaseVolumes, data_uri

LOG = logging.getLogger(__name__)

Kind = Literal["missed", "false", "found", "predicted"]
SHOWN_FIRST: tuple[Kind, ...] = ("missed", "false", "predicted", "found")


@dataclasses.dataclass(frozen=True)
class ReportCase:
    """One pair in a report.

    Args:
        id: as shown; a pseudonym where ids are private.
        score: None where there is no reference.
        load: reads the volumes; called only for a pair with lesions to show, one pair at a time.
        probabilities: label of a predicted lesion -> calibrated probability that it is true.
    """

    id: str
    score: CaseScore | None
    load: Callable[[], CaseVolumes]
    probabilities: Mapping[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ReportContext:
    """Content of a report.

    Args:
        setting: experiment, data, split, fold, seed, commit, protocol, threshold, ... as shown.
        card: the system's card: name, paper, doi, idea, departures, reported.
        curves: rows with ``step``, ``name`` (``train/loss``, ``val/lesion_f1``) and ``value``.
        cases: the scored pairs.
        summary: measures over each group of cases, ``with_new_lesions`` and
            ``without_new_lesions``: name -> number, or a mapping with ``mean``, ``low``, ``high``.
        notes: warnings a reader must know.
        kept_step: ``step`` of the curves after which the kept weights were taken.
        operating_point: its section, from ``report.operating_point``; None where there is none.
    """

    setting: Mapping[str, object]
    card: Mapping[str, Any]
    cases: Sequence[ReportCase]
    curves: Sequence[Mapping[str, Any]] = ()
    summary: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kept_step: int | None = None
    operating_point: Markup | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """A lesion that is found, missed or false.

    Args:
        kind: what became of it; ``predicted`` where there is no reference.
        case: id of the pair.
        lesion: the reference's component, or the prediction's where false.
        partners: components of the other mask it shares voxels with.
        probability: calibrated, that a predicted lesion here is true; None where unknown.
    """

    kind: Kind
    case: str
    lesion: Lesion
    partners: tuple[Lesion, ...] = ()
    probability: float | None = None

    @property
    def why(self) -> str:
        """Explanation of the outcome by the official rule."""
        if self.kind == "predicted":
            return "no reference to compare with"
        if self.kind == "found":
            return "in the reference and found"
        where, other = (
            ("predicted", "true") if self.kind == "false" else ("in the reference", "predicted")
        )
        if not self.lesion.counted:
            return f"{where}, too small to count"
        if self.partners:
            return (
                f"{where}; touches a {other} lesion, but what they share is too small a part of "
                "one of them to count as a match (official rule)"
            )
        if self.lesion.overlap_voxels:
            return f"{where}; touches only a {other} lesion that is too small to count"
        return f"{where}, touches no {other} lesion"


def findings_of(
    case: str, score: CaseScore, probabilities: Mapping[int, float] = MappingProxyType({})
) -> list[Finding]:
    """All lesions of a scored pair; matched predicted lesions are shown with their reference.

    Args:
        case: id of the pair.
        score: its scores.
        probabilities: see ``ReportCase``.
    """
    predicted = {lesion.label: lesion for lesion in score.predicted_lesions}
    findings = []
    for lesion in score.reference_lesions:
        partners = tuple(predicted[p] for r, p, _ in score.overlaps if r == lesion.label)
        known = [probabilities[one.label] for one in partners if one.label in probabilities]
        kind: Kind = "found" if lesion.found else "missed"
        findings.append(Finding(kind, case, lesion, partners, max(known, default=None)))
    reference = {lesion.label: lesion for lesion in score.reference_lesions}
    for lesion in score.predicted_lesions:
        if not lesion.found:
            partners = tuple(reference[r] for r, p, _ in score.overlaps if p == lesion.label)
            known_probability = probabilities.get(lesion.label)
            findings.append(Finding("false", case, lesion, partners, known_probability))
    return findings


def select(findings: Iterable[Finding], limit: int) -> list[Finding]:
    """Select lesions: missed, false, then found, large ones first.

    Where not all fit, no kind is crowded out: kinds take turns until the limit is reached.
    """
    queues: list[list[Finding]] = [[] for _ in SHOWN_FIRST]
    for finding in findings:
        queues[SHOWN_FIRST.index(finding.kind)].append(finding)
    for queue in queues:
        queue.sort(key=lambda f: (not f.lesion.counted, -f.lesion.volume_mm3, f.case))
    quotas = [0] * len(queues)
    while sum(quotas) < min(limit, sum(map(len, queues))):
        for kind, queue in enumerate(queues):
            if quotas[kind] < len(queue) and sum(quotas) < limit:
                quotas[kind] += 1
    return [
        finding for queue, quota in zip(queues, quotas, strict=True) for finding in queue[:quota]
    ]


def predicted_findings(case: str, prediction: Volume) -> list[Finding]:
    """Predicted lesions of a pair without a reference."""
    labels, count = label_lesions(prediction.data)
    voxel_mm3 = prediction.grid.voxel_volume_mm3
    findings = []
    for label in range(1, count + 1):
        places = np.argwhere(labels == label)
        low, high = places.min(0), places.max(0) + 1
        centre = places.mean(0)
        lesion = Lesion(
            label=label,
            voxels=len(places),
            volume_mm3=len(places) * voxel_mm3,
            centre_voxel=(float(centre[0]), float(centre[1]), float(centre[2])),
            box=tuple((int(a), int(b)) for a, b in zip(low, high, strict=True)),  # type: ignore[arg-type]  # three axes
            found=False,
            counted=True,
            overlap_voxels=0,
        )
        findings.append(Finding("predicted", case, lesion))
    return findings


def lesion_voxels(mask: Volume, lesion: Lesion) -> NDArray[np.bool_]:
    """The voxels of a lesion inside its box."""
    box = tuple(slice(low, high) for low, high in lesion.box)
    labels, count = label_lesions(mask.data[box])
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = -1
    # Another lesion may reach into the box; ours is the component of the right size.
    own = int(np.argmin(np.where(sizes > 0, np.abs(sizes - lesion.voxels), np.iinfo(int).max)))
    return np.asarray(labels == own)


def view_point(mask: Volume, lesion: Lesion) -> NDArray[np.float64]:
    """World position (mm) of the planes: the slices with the largest part of the lesion.

    The centre of a crescent can lie outside of it; the slice with the largest area never does.
    """
    part = lesion_voxels(mask, lesion)
    index = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        index.append(int(np.argmax(part.sum(axis=others))) + lesion.box[axis][0])
    return np.asarray(mask.affine[:3, :3] @ np.array(index) + mask.affine[:3, 3])


def write_report(
    context: ReportContext, path: Path, *, max_lesions: int = 60, progress: bool = True
) -> Path:
    """Write the report as one file without external resources.

    Args:
        context: content of the report.
        path: the ``.html`` to write.
        max_lesions: how many lesions get a card; the page says how many were left out.
        progress: show a progress bar.

    Returns:
        ``path``.
    """
    loaded_for_unscored = _unscored_findings(context.cases)
    findings = [
        finding
        for case in context.cases
        for finding in (
            findings_of(case.id, case.score, case.probabilities)
            if case.score is not None
            else loaded_for_unscored[case.id]
        )
    ]
    shown = select(findings, max_lesions)
    cards = {id(finding): card for finding, card in _cards(context.cases, shown, progress=progress)}
    html = page.document(
        title=str(context.card.get("name") or context.setting.get("experiment") or "Report"),
        sections=[
            page.header(context.card, context.setting, context.notes),
            page.headline(context.summary),
            context.operating_point or Markup(""),
            page.piece("curves", curve_panels(context.curves, context.kept_step)),
            page.case_table([(case.id, case.score) for case in context.cases]),
            page.lesions(
                [cards[id(finding)] for finding in shown],
                counts=_counts(findings),
                shown=_counts(shown),
                too_small=sum(not finding.lesion.counted for finding in findings),
            ),
            page.piece("how_to_read"),
        ],
    )
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _unscored_findings(cases: Sequence[ReportCase]) -> dict[str, list[Finding]]:
    return {
        case.id: predicted_findings(case.id, case.load().prediction)
        for case in cases
        if case.score is None
    }


def _counts(findings: Iterable[Finding]) -> dict[str, int]:
    counts: dict[str, int] = {kind: 0 for kind in SHOWN_FIRST}
    for finding in findings:
        counts[finding.kind] += 1
    return counts


def _cards(
    cases: Sequence[ReportCase], shown: Sequence[Finding], *, progress: bool
) -> Iterator[tuple[Finding, Markup]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task("Drawing lesions", total=len(shown))
        for case in cases:
            wanted = [finding for finding in shown if finding.case == case.id]
            if not wanted:
                continue
            volumes = case.load()
            pictures = _pictures(case.id, volumes)
            for finding in wanted:
                yield finding, _card(finding, volumes, pictures)
                bar.advance(task)


def write_pictures(context: ReportContext, folder: Path, *, max_lesions: int = 60) -> list[Path]:
    """Write the picture of each lesion that the report shows as ``<case>_<kind>_<label>.png``.

    Rows are axial, coronal and sagittal planes; columns baseline, follow-up, difference and the
    overlay of reference (blue) and prediction (orange).

    Returns:
        The files, in the order of the report. Pairs without a brain mask give none.

    Raises:
        MssegError: a file of this name was not written here (exit 2).
    """
    from PIL import Image, PngImagePlugin

    folder.mkdir(parents=True, exist_ok=True)
    scored = [(case, case.score) for case in context.cases if case.score is not None]
    shown = select([f for case, score in scored for f in findings_of(case.id, score)], max_lesions)
    refuse_overwrites(
        [(picture_file(folder, finding), _is_picture) for finding in shown], field="--pictures"
    )
    marked = PngImagePlugin.PngInfo()
    marked.add_text("Software", page.GENERATOR)
    written = []
    for case in context.cases:
        wanted = [finding for finding in shown if finding.case == case.id]
        volumes = case.load() if wanted else None
        pictures = _pictures(case.id, volumes) if volumes is not None else None
        if volumes is None or pictures is None:
            continue
        for finding in wanted:
            own = volumes.prediction if finding.kind == "false" else volumes.reference
            if own is None:
                continue
            picture = pictures.lesion(view_point(own, finding.lesion))
            file = picture_file(folder, finding)
            with atomic_write(file) as temporary:
                Image.fromarray(picture).save(
                    temporary, format="PNG", optimize=True, pnginfo=marked
                )
            written.append(file)
    return written


def picture_file(folder: Path, finding: Finding) -> Path:
    """Where the picture of a lesion is written."""
    return folder / f"{finding.case}_{finding.kind}_{finding.lesion.label}.png"


def _is_picture(file: Path) -> bool:
    """Whether a file is a picture that ``write_pictures`` wrote."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return picture.info.get("Software") == page.GENERATOR
    except (OSError, ValueError):
        return False


def _pictures(case: str, volumes: CaseVolumes) -> CasePictures | None:
    try:
        return CasePictures(volumes)
    except ValueError as error:
        LOG.warning("%s: %s", case, error)
        return None


def _card(finding: Finding, volumes: CaseVolumes, pictures: CasePictures | None) -> Markup:
    own = volumes.prediction
    if finding.kind in ("found", "missed") and volumes.reference is not None:
        own = volumes.reference
    point = view_point(own, finding.lesion)
    facts = _facts(finding, own, point, volumes)
    if pictures is None:
        return page.lesion_card(finding.kind, finding.case, finding.why, facts, None, None, None)
    steps = pictures.steps(point)
    return page.lesion_card(
        finding.kind,
        finding.case,
        finding.why,
        facts,
        data_uri(pictures.lesion(point)),
        data_uri(pictures.locator(point)),
        None if steps is None else data_uri(steps),
    )


def _facts(
    finding: Finding, own: Volume, point: NDArray[np.float64], volumes: CaseVolumes
) -> dict[str, str]:
    lesion = finding.lesion
    facts = {"Volume": f"{lesion.volume_mm3:.0f} mm³ ({counted(lesion.voxels, 'voxel')})"}
    if finding.partners:
        other = "Prediction there" if finding.kind != "false" else "Reference there"
        total = sum(partner.volume_mm3 for partner in finding.partners)
        voxels = sum(partner.voxels for partner in finding.partners)
        facts[other] = (
            f"{total:.0f} mm³ ({counted(voxels, 'voxel')}), "
            f"{counted(lesion.overlap_voxels, 'voxel')} shared"
        )
    if finding.probability is not None:
        facts["Calibrated probability"] = f"{finding.probability:.2f}"
    if volumes.probability is not None:
        box = tuple(slice(low, high) for low, high in lesion.box)
        if volumes.probability.data.shape == own.data.shape:
            facts["Highest probability"] = f"{float(volumes.probability.data[box].max()):.2f}"
    uncertainty = volumes.uncertainty
    if uncertainty is not None and uncertainty.data.shape == own.data.shape:
        box = tuple(slice(low, high) for low, high in lesion.box)
        inside = uncertainty.data[box][lesion_voxels(own, lesion)]
        facts["Mean uncertainty"] = f"{float(inside.mean()):.3f}"
    if finding.kind == "missed" and (dropped := _dropped_at(finding, own, volumes)):
        facts["Not a candidate after"] = dropped
    voxel = np.linalg.inv(own.affine) @ np.append(point, 1)
    facts["Voxel (from 0)"] = ", ".join(str(round(float(index))) for index in voxel[:3])
    return facts


def _dropped_at(finding: Finding, own: Volume, volumes: CaseVolumes) -> str:
    """The first step whose mask holds no voxel of a lesion; empty where there is none."""
    box = tuple(slice(low, high) for low, high in finding.lesion.box)
    inside = lesion_voxels(own, finding.lesion)
    for name, volume in volumes.steps.items():
        comparable = volume.kind == "mask" and volume.data.shape == own.data.shape
        if comparable and not np.asarray(volume.data)[box][inside].any():
            return name.replace("_", " ")
    return ""

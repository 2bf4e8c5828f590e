"""Warnings on files and entries that a reader did not use."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msseg_lightning.core.paths import shown
from msseg_lightning.core.problem import Problem

_KINDS = {
    "reference": (
        "references of new lesions belong to no pair",
        "move them to the session they belong to, or nothing to do",
    ),
    "row": (
        "rows of a table belong to nothing that was read",
        "rename them as the data, or remove them",
    ),
    "column": (
        "columns of a table are not known and were ignored",
        "rename them, or nothing to do",
    ),
    "mask": ("masks were not used", "rename or move them if they belong to a pair"),
    "unnamed": (
        "images and masks beside those of a table are named in no row",
        "name them in the table, or nothing to do",
    ),
    "image": ("images were not used", "nothing to do, or rename those that belong to a pair"),
    "file": ("files were not used", "nothing to do, or rename those that belong to a pair"),
    "folder": ("folders hold no file that was used", "nothing to do, or complete them"),
}
"""Message and remedy by kind of unused item."""

_MASK = re.compile(
    r"mask|lesion|label|_seg|dseg|truth|(^|[_-])gt([_.-]|$)|(^|[_-])roi|expert|rater|consensus"
    r"|segm|annot|manual|delineat|reference",
    re.I,
)
_IMAGE = (".nii", ".nii.gz", ".img", ".hdr", ".mgz", ".mgh", ".nrrd", ".mha", ".mhd", ".dcm")
_DESCRIBING = re.compile(
    r"(dataset_description\.json|participants\.(tsv|json)|README(\..*)?|CHANGES|LICENSE(\..*)?"
    r"|CITATION\.cff|.*_(sessions|scans)\.(tsv|json))"
)
_SIMULATED = re.compile(
    r"cohort\.json|split\.json|lesions\.tsv|patient\.json|true_new_lesions\.nii\.gz"
)
"""Further files that ``simulate`` writes, which cause no warning."""
_ENTITIES = re.compile(r"(sub|ses)-[A-Za-z0-9]+_")


class Unused:
    """Collects what one call of a reader did not use.

    Things of one kind and name are one finding: 40 files ``t1.nii.gz`` are reported once, with
    their number and the first place.

    Args:
        setting: place of a mask -> the setting by which it would be read as a reference; empty
            where there is none.
    """

    def __init__(self, setting: Callable[[str], str] = lambda place: "") -> None:
        self._setting = setting
        self._places: dict[tuple[str, str, str], list[str]] = {}

    def add(self, kind: str, name: str, place: str, why: str = "") -> None:
        """Add one item.

        Args:
            kind: ``row``, ``column``, ``mask``, ``image``, ``file``, ``folder`` or ``unnamed``.
            name: items of one name are reported together.
            place: the file or folder.
            why: what was expected instead.
        """
        self._places.setdefault((kind, name, why), []).append(place)

    def problems(self) -> list[Problem]:
        """A warning for each kind and name."""
        return [
            Problem(
                f"unused.{kind}",
                _KINDS[kind][0],
                file=places[0],
                field=name,
                found=f"{len(places)}, the first at {places[0]}" if len(places) > 1 else "1",
                expected=why,
                remedy=self._remedy(kind, places[0]),
                severity="warning",
            )
            for (kind, name, why), places in self._places.items()
        ]

    def _remedy(self, kind: str, place: str) -> str:
        setting = self._setting(place) if kind == "mask" else ""
        if not setting:
            return _KINDS[kind][1]
        return f"if they mark new lesions: {setting}; `msseg check --layout` shows what is read"


def add_files(
    unused: Unused, root: Path, used: Iterable[Path], left_out: Iterable[Path] = ()
) -> None:
    """Count every file and folder below a data root that was not used.

    Hidden ones, descriptions of the data set and side-cars of used images are no findings. A folder
    without any used file below is one finding, its content is not looked at.

    Args:
        unused: where they are counted.
        root: of the data set.
        used: files of the pairs.
        left_out: files or folders with a problem of their own.
    """
    kept = {os.path.normpath(path) for path in used}
    reported = {os.path.normpath(path) for path in left_out}
    stems = {_stem(path) for path in kept}
    parents = {str(parent) for path in kept for parent in Path(path).parents}
    for place, folders, files in os.walk(os.path.normpath(root)):
        for folder in sorted(folders):
            path = str(Path(place, folder))
            if path in parents and path not in reported:
                continue
            folders.remove(folder)
            if not folder.startswith(".") and path not in reported:
                masks = _masks_below(path)
                for mask in masks:
                    unused.add("mask", _name(mask.name), shown(mask, root))
                if not masks:
                    unused.add("folder", folder, shown(Path(path), root))
        folders.sort()
        for file in sorted(files):
            path = str(Path(place, file))
            if path in kept or path in reported or file.startswith("."):
                continue
            if _DESCRIBING.fullmatch(file) or _SIMULATED.fullmatch(file):
                continue
            if file.endswith((".json", ".txt")) and _stem(path) in stems:
                continue
            unused.add(_kind(file), _name(file), shown(Path(path), root))


def add_unnamed(unused: Unused, root: Path, used: Iterable[Path]) -> None:
    """Count the images and masks that lie in the folders of a table's files and are in no row.

    A table says itself where its files lie, so that only their folders are looked at. What
    ``msseg predict`` wrote there, a mask with its JSON, is no finding.

    Args:
        unused: where they are counted.
        root: of the data set.
        used: files that the table names.
    """
    kept = {os.path.normpath(path) for path in used}
    for folder in sorted({Path(path).parent for path in kept}):
        try:
            files = sorted(file.name for file in folder.iterdir())
        except OSError:  # reported when the file is opened
            continue
        for file in files:
            path = str(Path(folder, file))
            stem = _stem(path).removesuffix("_probability")
            if (
                path not in kept
                and _kind(file) != "file"
                and not file.startswith(".")
                and f"{Path(stem).name}_msseg.json" not in files
                and not _SIMULATED.fullmatch(file)
            ):
                unused.add("unnamed", _name(file), shown(Path(path), root))


def summary(problems: Sequence[Problem]) -> str:
    """One line with the number of problems by kind; empty without any."""
    counts = collections.Counter(problem.code for problem in problems)
    if not counts:
        return ""
    text = ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
    return f"left out or not used while reading: {text}; `msseg check` names them"


def looks_like_mask(name: str) -> bool:
    """Whether a file or a column of a table is named as a mask is."""
    return bool(_MASK.search(name))


def _masks_below(folder: str) -> list[Path]:
    return [
        Path(place, file)
        for place, _, files in os.walk(folder)
        for file in sorted(files)
        if _kind(file) == "mask"
    ]


def _stem(path: str) -> str:
    return re.sub(r"\.(nii\.gz|nii|json|txt)$", "", path)


def _kind(file: str) -> str:
    if not file.lower().endswith(_IMAGE):
        return "file"
    return "mask" if _MASK.search(file) else "image"


def _name(file: str) -> str:
    """File name without entities that differ between patients, e.g. ``T1w.nii.gz``."""
    if file.lower().endswith(_IMAGE):
        return _ENTITIES.sub("", file)
    return "*" + "".join(Path(file).suffixes[-1:]) if Path(file).suffix else file

"""Reader of longitudinal BIDS data sets."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msseg_lightning.core.paths import resolve_file, shown
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import (
    ADJUDICATED,
    BASELINE,
    BASELINE_LESIONS,
    BRAIN,
    FOLLOWUP,
    FOLLOWUP_LESIONS,
    TARGET,
    Facts,
    LongitudinalSubject,
)
from msseg_lightning.read.identity import match
from msseg_lightning.read.participants import read_participants, read_tsv
from msseg_lightning.read.patterns import check_patterns, matching, no_file, pattern_of
from msseg_lightning.read.reader import check_ids, existing_root, raise_errors, warnings_of
from msseg_lightning.read.sessions import SessionOrder, order_sessions, read_date
from msseg_lightning.read.unused import Unused, add_files

_SUFFIXES = (".nii.gz", ".nii")
_INDICES = ("run", "echo", "flip", "inv", "split", "chunk")
"""Entities whose values are numbers: ``run-01`` is ``run-1``."""
_NATIVE = ("orig", "FLAIR")
"""Values of ``space`` that mean the scan's own space."""
_OF_MASKS = ("sub", "ses", "desc", "label")
"""Entities of a mask that are ignored when it is matched with a scan."""
_NO_DATA = ("code", "sourcedata", "stimuli", "phenotype")
"""Folders of BIDS that are not searched for pairs."""
_SIDE_CAR_DATES = (
    "AcquisitionDateTime",
    "AcquisitionDate",
    "SeriesDate",
    "StudyDate",
    "ContentDate",
)


RATERS = tuple(f"{TARGET}_rater{number}" for number in range(1, 5))
OTHER_MASKS = (BRAIN, BASELINE_LESIONS, FOLLOWUP_LESIONS)


class Bids:
    """Reads consecutive sessions of each subject as pairs.

    Scans: ``sub-X/ses-Y/anat/*_FLAIR.nii[.gz]``. A subject with n sessions gives n - 1 pairs named
    ``sub-X_ses-A_ses-B``, all of the patient ``sub-X``. Masks lie under
    ``derivatives/*/sub-X/ses-B/anat/`` and are found by their label, on the grid of the follow-up:
    ``*_label-newlesion_mask`` (new lesions; ``_desc-rater1`` .. ``4`` for raters,
    ``_desc-adjudicated`` for a corrected version),
    ``*_label-brain_mask`` or ``*_desc-brain_mask``, and, for both sessions,
    ``*_label-lesion_mask`` (all lesions). Facts come from ``participants.tsv``.

    Order of the sessions: dates (``sub-X_sessions.tsv``, ``*_scans.tsv``, side-cars of the scans),
    then numbers in the labels, then words such as baseline and followup; sessions that none of
    these tells apart are refused unless ``session_order`` does. Dates give the interval of a pair.

    A mask belongs to the scan whose entities it carries (``acq``, ``rec``, ``run``, ``echo`` and
    so on); it may lack some, but ``space`` and ``res`` must be those of the scan. Several scans or
    masks that fit are refused unless ``entities`` or ``choose`` says which.

    Args:
        root: the data set.
        entities: BIDS entities a scan must carry: ``{"run": 1}`` keeps files with ``run-1`` or
            ``run-01``; None as value keeps those without the entity. Scans of a session where none
            has a ``run`` or another index pass. ``desc`` is asked of masks only.
        registered: both sessions lie on one grid; others are refused.
        session_order: labels of sessions in order of time, with or without ``ses-``; goes before
            everything else.
        choose: files below the root, scans or masks, to be taken where several fit.
        masks: name of a mask, such as ``new_lesions`` -> pattern of its files below the root, in
            place of the labels above: ``{subject}`` is ``sub-X`` and ``{session}`` the session
            ``ses-B`` of the mask, ``{sub}`` and ``{ses}`` the same without ``sub-`` and ``ses-``;
            ``*`` is any text.
        suffix: the suffix of the scans.
    """

    LAYOUT = """\
DATA/                                                                read=bids read.root=DATA
  sub-01/ses-01/anat/sub-01_ses-01_FLAIR.nii.gz                      first visit
  sub-01/ses-02/anat/sub-01_ses-02_FLAIR.nii.gz                      second visit
  derivatives/manual/sub-01/ses-02/anat/sub-01_ses-02_label-newlesion_mask.nii.gz
                                                                     reference: new lesions
  derivatives/manual/sub-01/ses-02/anat/sub-01_ses-02_desc-rater1_label-newlesion_mask.nii.gz
                                                                     optional: rater1 .. rater4
  derivatives/manual/sub-01/ses-02/anat/sub-01_ses-02_label-brain_mask.nii.gz
                                                                     optional: brain
  derivatives/manual/sub-01/ses-01/anat/sub-01_ses-01_label-lesion_mask.nii.gz
  derivatives/manual/sub-01/ses-02/anat/sub-01_ses-02_label-lesion_mask.nii.gz
                                                                     optional: all lesions of it
  participants.tsv                                                   optional: sex, age, site
n sessions are n - 1 pairs; dates (*_sessions.tsv, *_scans.tsv, side-cars), numbers or words in the
labels order them, or 'read.session_order=[pre,post]'
other names:  read.masks.new_lesions='derivatives/{subject}_{session}_lesion.nii.gz'
              (new_lesions, new_lesions_rater1 .. 4, brain, baseline_lesions, followup_lesions)
              read.suffix=T2w, '+read.entities.acq=3d', 'read.choose=[FILE]'
"""

    def __init__(
        self,
        root: str | Path,
        entities: Mapping[str, object] | None = None,
        registered: bool = False,
        session_order: Sequence[object] = (),
        choose: Sequence[str] = (),
        masks: Mapping[str, str | None] | None = None,
        suffix: str = "FLAIR",
    ) -> None:
        self.root = Path(root)
        self.entities = {
            key: None if value is None else str(value) for key, value in (entities or {}).items()
        }
        self.registered = registered
        self.session_order = [str(label) for label in session_order]
        self.choose = [str(file) for file in choose]
        holders = ("subject", "session", "sub", "ses")
        self.patterns = check_patterns(
            masks, (TARGET, *RATERS, *OTHER_MASKS), holders, "read.masks"
        )
        self.suffix = str(suffix)
        self._skipped: list[Problem] = []
        self._orders: dict[str, SessionOrder] = {}
        self._found: list[LongitudinalSubject] = []
        self._unused = Unused()
        self._left_out: list[Path] = []
        self._chosen: set[str] = set()

    def subjects(self) -> list[LongitudinalSubject]:
        """Every pair, ordered by subject and time.

        Raises:
            MssegError: with every problem of the layout.
        """
        root = existing_root(self.root)
        self._skipped, self._orders, self._found = [], {}, []
        self._unused, self._left_out, self._chosen = Unused(), [], set()
        problems: list[Problem] = []
        folders = sorted(path for path in root.glob("sub-*") if path.is_dir())
        table = read_participants(root / "participants.tsv", root)
        sessions: dict[Path, dict[str, Path]] = {}
        for folder in folders:
            scans, remarks = self._scans(folder, root, problems)
            if len(scans) < 2:
                self._left_out.append(folder)
                problems.append(_incomplete(folder, scans))
            else:
                sessions[folder] = scans
                problems += remarks
        complete = [folder.name for folder in sessions]
        left_out = [folder.name for folder in folders if folder not in sessions]
        facts, remarks = table.assign(complete, self._unused, left_out)
        problems += remarks
        for folder, scans in sessions.items():
            dates = self._dates(folder, scans, root, problems)
            order, found = order_sessions(list(scans), dates, folder.name, self.session_order)
            problems += found
            self._orders[folder.name] = order
            known = facts.get(folder.name, Facts())
            for first, second in itertools.pairwise(order.sessions):
                self._found.append(
                    LongitudinalSubject(
                        id=f"{folder.name}_{first}_{second}",
                        patient=folder.name,
                        images={BASELINE: scans[first], FOLLOWUP: scans[second]},
                        masks=self._masks(folder.name, first, second, scans, root, problems),
                        facts=_with_interval(known, order, first, second, folder.name, problems),
                        root=root,
                        registered=self.registered,
                    )
                )
        problems += check_ids(self._found, "folder names")
        problems += self._not_chosen()
        problems += self._unmatched(problems)
        if not self._found and not any(problem.severity == "error" for problem in problems):
            problems.append(
                Problem(
                    "data.empty",
                    "no pair was found",
                    file=root.name,
                    field="read.root",
                    found=f"{len(self._left_out)} subjects with fewer than two sessions",
                    expected=f"sub-*/ses-*/anat/*_{self.suffix}.nii.gz, two sessions each",
                    remedy="give the root of the BIDS data set; `msseg check read=bids --layout` "
                    "shows the names, and how to give others",
                )
            )
        self._skipped = list(dict.fromkeys(warnings_of(problems)))
        raise_errors(list(dict.fromkeys(problems)))
        return list(self._found)

    def skipped(self) -> list[Problem]:
        """Warnings on files that the last call of ``subjects`` did not use."""
        unused = Unused(_setting)
        if self._found:
            root = existing_root(self.root)
            used = [file for pair in self._found for file in pair.files().values()]
            kept = {str(file) for file in used}
            references = [
                file
                for file in sorted(root.glob("derivatives/*/sub-*/ses-*/anat/*_mask.nii*"))
                if str(file) not in kept
                and _entities(file).get("label") == "newlesion"
                and not re.search("rater|adjudicated", _entities(file).get("desc", ""))
            ]
            for file in references:
                unused.add("reference", _kind_of(file), shown(file, root), self._why(file))
            left_out = [*self._left_out, *references, *(root / name for name in _NO_DATA)]
            add_files(unused, root, used, left_out)
        return [*self._skipped, *self._unused.problems(), *unused.problems()]

    def order(self) -> list[str]:
        """Order of sessions and its source, with equal subjects summarised."""
        groups: dict[str, list[str]] = {}
        for subject, order in self._orders.items():
            text = str(order).replace(subject, "sub-*")
            groups.setdefault(text, []).append(subject)
        return [
            f"{names[0] if len(names) == 1 else f'{len(names)} subjects, e.g. {names[0]}'}: {text}"
            for text, names in groups.items()
        ]

    def _why(self, file: Path) -> str:
        """Reason why a reference belongs to no pair."""
        subject, session = file.parts[-4], file.parts[-3]
        order = self._orders.get(subject)
        if order is None or session not in order.sessions:
            return "a reference of a session that has a scan and an earlier session"
        if session == order.sessions[0]:
            return "a reference of a follow-up; this is the first session"
        return "the entities of the scan of its session"

    def _scans(
        self, folder: Path, root: Path, problems: list[Problem]
    ) -> tuple[dict[str, Path], list[Problem]]:
        """Find the scan of each session; sessions without one are reported."""
        remarks: list[Problem] = []
        scans: dict[str, Path] = {}
        for session in sorted(path for path in folder.glob("ses-*") if path.is_dir()):
            every = [
                file
                for suffix in _SUFFIXES
                for file in sorted((session / "anat").glob(f"*_{self.suffix}{suffix}"))
            ]
            files = self._pick([file for file in every if self._wanted(file, every)], every, root)
            if len(files) > 1:
                problems.append(_ambiguous(files, root))
            if files:
                problems += _misplaced(files[0], root)
                scans[session.name] = files[0]
            else:
                self._left_out.append(session)
                wanted = "".join(
                    f"_{key}-{value}" if value is not None else f", without {key}"
                    for key, value in self.entities.items()
                    if key != "desc"
                )
                remarks.append(
                    Problem(
                        "bids.no_scan",
                        "left out: the session has no such scan",
                        file=shown(session, root),
                        field=f"anat/*_{self.suffix}.nii.gz",
                        found=", ".join(file.name for file in every) or f"no {self.suffix}",
                        expected=f"a {self.suffix}{wanted}",
                        remedy="nothing to do, or add the scan",
                        severity="warning",
                    )
                )
        return scans, remarks

    def _wanted(self, file: Path, siblings: Sequence[Path]) -> bool:
        """Whether a scan carries the entities that are asked for."""
        own = _entities(file)
        for key, value in self.entities.items():
            if key == "desc" or _same(key, own.get(key), value):
                continue
            if key in _INDICES and not any(key in _entities(one) for one in siblings):
                continue
            return False
        return True

    def _pick(self, files: list[Path], every: Sequence[Path], root: Path) -> list[Path]:
        """The candidates that are listed in ``choose``; all candidates if none is."""
        chosen = [file for file in every if shown(file, root) in self.choose]
        self._chosen.update(shown(file, root) for file in chosen)
        return chosen or files

    def _not_chosen(self) -> list[Problem]:
        missed = [file for file in self.choose if file not in self._chosen]
        if not missed:
            return []
        return [
            Problem(
                "bids.choice",
                "a chosen file is no scan or mask that could be taken",
                field="read.choose",
                found=", ".join(missed),
                expected="files below the root, e.g. sub-A/ses-1/anat/sub-A_ses-1_run-1_FLAIR.nii",
                remedy="correct the path",
                exit_code=ExitCode.CONFIG,
            )
        ]

    def _masks(
        self,
        subject: str,
        first: str,
        second: str,
        scans: Mapping[str, Path],
        root: Path,
        problems: list[Problem],
    ) -> dict[str, Path]:
        wanted = {
            TARGET: (second, "newlesion"),
            BRAIN: (second, "brain"),
            BASELINE_LESIONS: (first, "lesion"),
            FOLLOWUP_LESIONS: (second, "lesion"),
            **{name: (second, "newlesion") for name in RATERS},
            ADJUDICATED: (second, "newlesion"),
        }
        masks: dict[str, Path] = {}
        for name, (session, label) in wanted.items():
            if name in self.patterns:
                files = self._by_pattern(name, subject, session, root)
                if len(files) > 1:
                    problems.append(_ambiguous(files, root))
                masks |= {name: files[0]} if files else {}
                continue
            every = [
                file
                for suffix in _SUFFIXES
                for file in sorted(
                    root.glob(f"derivatives/*/{subject}/{session}/anat/*_mask{suffix}")
                )
                if _is_of(file, name, label)
            ]
            desc = self.entities.get("desc")
            if desc is not None and any(_entities(file).get("desc") == desc for file in every):
                every = [file for file in every if _entities(file).get("desc") == desc]
            fit = {file: _fit(_entities(file), _entities(scans[session])) for file in every}
            best = max((value for value in fit.values() if value is not None), default=None)
            fitting = [file for file in every if best is not None and fit[file] == best]
            files = self._pick(fitting, every, root)
            if len(files) > 1:
                problems.append(_ambiguous(files, root))
            if not files:
                continue
            masks[name] = files[0]
            problems += _misplaced(files[0], root)
            problems += self._unspecific(files[0], scans[session], root)
        return masks

    def _by_pattern(self, name: str, subject: str, session: str, root: Path) -> list[Path]:
        """The files of a mask whose names a setting gives."""
        files = matching(
            root,
            self.patterns[name],
            subject=subject,
            session=session,
            sub=subject.removeprefix("sub-"),
            ses=session.removeprefix("ses-"),
        )
        return self._pick(files, files, root)

    def _unmatched(self, problems: Sequence[Problem]) -> Iterator[Problem]:
        """Problems of patterns that fit nothing, or one file for several pairs."""
        for name, pattern in self.patterns.items():
            files = [pair.masks[name] for pair in self._found if name in pair.masks]
            if not files and self._found and not any(one.severity == "error" for one in problems):
                yield no_file("read.masks", name, pattern)
            twice = [file for file, count in Counter(files).items() if count > 1]
            if twice:
                yield Problem(
                    "bids.mask_of_pairs",
                    "one file would be the mask of several pairs",
                    file=shown(twice[0], self.root),
                    field=f"read.masks.{name}",
                    found=pattern,
                    expected="a file for each session",
                    remedy=f"name the session in read.masks.{name} by {{session}} or {{ses}}",
                    exit_code=ExitCode.CONFIG,
                )

    def _unspecific(self, mask: Path, scan: Path, root: Path) -> list[Problem]:
        """Problem of a mask that could belong to several scans of its session."""
        if shown(mask, root) in self.choose:
            return []
        own, wanted = _entities(mask), _entities(scan)
        others = [
            _entities(file)
            for suffix in _SUFFIXES
            for file in scan.parent.glob(f"*_{self.suffix}{suffix}")
            if file != scan
        ]
        if not any(_fit(own, other) is not None for other in others):
            return []
        if all(_same(key, own.get(key), value) for key, value in wanted.items() if key != "ses"):
            return []
        return [
            Problem(
                "bids.mask_of_several",
                "the mask does not say to which of the session's scans it belongs",
                file=shown(mask, root),
                field="file name",
                found=f"taken for {scan.name}",
                expected="the entities of its scan",
                remedy="add them to the name of the mask, or nothing to do",
                severity="warning",
            )
        ]

    def _dates(
        self, folder: Path, scans: Mapping[str, Path], root: Path, problems: list[Problem]
    ) -> dict[str, dict[str, datetime.datetime]]:
        """Dates of sessions by source, the most trusted source first."""
        found: dict[str, dict[str, datetime.datetime]] = {}
        table = folder / f"{folder.name}_sessions.tsv"
        try:
            found |= self._sessions_table(table, folder, scans, root, problems)
            found |= _scans_tables(folder, scans, root, problems)
        except MssegError as error:
            problems += error.problems
        side_cars = {}
        for session, scan in scans.items():
            when = _side_car_date(scan, root, problems)
            if when is not None:
                side_cars[session] = when
        if side_cars:
            found["the side-cars of the scans"] = side_cars
        return found

    def _sessions_table(
        self,
        table: Path,
        folder: Path,
        scans: Mapping[str, Path],
        root: Path,
        problems: list[Problem],
    ) -> dict[str, dict[str, datetime.datetime]]:
        if not table.exists():
            return {}
        name = shown(table, root)
        rows: dict[str, dict[str, str]] = {}
        for line, row in read_tsv(table, "session_id", root):
            first = rows.setdefault(row["session_id"], row)
            if first.get("acq_time") != row.get("acq_time"):
                problems.append(_dated_twice(row["session_id"], f"{name}, line {line}"))
        folders = [path.name for path in folder.glob("ses-*") if path.is_dir()]
        assigned, strange = match(rows, folders, "ses-")
        for label in strange:
            self._unused.add("row", "session_id", f"{name}, {ascii(label)[1:-1][:64]}")
        for column in next(iter(rows.values()), {}):
            if column not in ("session_id", "acq_time"):
                self._unused.add("column", column, name)
        dates = {}
        for session, label in assigned.items():
            text = label and rows[label].get("acq_time", "")
            when = _cell_date(text, f"{name}, {label}", problems)
            if when is not None and session in scans:
                dates[session] = when
        return {table.name: dates} if dates else {}


def _scans_tables(
    folder: Path, scans: Mapping[str, Path], root: Path, problems: list[Problem]
) -> dict[str, dict[str, datetime.datetime]]:
    """Dates of the scans taken, from the tables of the subject and its sessions.

    A session whose scan has no date there has that of its earliest other file.
    """
    dates: dict[str, datetime.datetime] = {}
    for session, scan in scans.items():
        others: list[datetime.datetime] = []
        tables = [*scan.parents[1].glob("*_scans.tsv"), *folder.glob("*_scans.tsv")]
        for table in sorted(tables):
            for line, row in read_tsv(table, "filename", root):
                file = Path(os.path.normpath(table.parent / row["filename"].replace("\\", "/")))
                if not file.is_relative_to(scan.parents[1]):
                    continue
                where = f"{shown(table, root)}, line {line}"
                when = _cell_date(row.get("acq_time", ""), where, problems)
                if when is not None and _bare(file) == _bare(scan):
                    dates[session] = when
                elif when is not None:
                    others.append(when)
        if others:
            dates.setdefault(session, min(others, key=lambda when: when.date()))
    return {"the scans.tsv files": dates} if dates else {}


def _bare(file: Path) -> Path:
    """File without the ending of NIfTI."""
    return file.with_name(re.sub(r"\.nii(\.gz)?$", "", file.name))


def _dated_twice(session: str, where: str) -> Problem:
    return Problem(
        "bids.dated_twice",
        "a session has two rows with different dates",
        file=where,
        field="session_id",
        found=ascii(session)[1:-1][:64],
        expected="one row for each session",
        remedy="remove the row that is wrong",
    )


def _cell_date(text: str, where: str, problems: list[Problem]) -> datetime.datetime | None:
    """The date of a cell; one that cannot be read is an error, since the order depends on it."""
    if text.lower() in ("", "n/a", "na", "nan", "none", "unknown"):
        return None
    when = read_date(text)
    if when is None:
        problems.append(
            Problem(
                "table.date",
                "this cell should hold a date",
                file=where,
                field="acq_time",
                found=f"{len(text)} characters",  # not the text: it may be the date of a person
                expected="YYYY-MM-DD, YYYY-MM-DDThh:mm:ss or n/a",
                remedy="correct the cell",
            )
        )
    return when


def _side_car_date(scan: Path, root: Path, problems: list[Problem]) -> datetime.datetime | None:
    """The date in the JSON file of a scan; None without one."""
    path = scan.with_name(re.sub(r"\.nii(\.gz)?$", ".json", scan.name))
    if not path.exists():
        return None
    try:
        record = json.loads(resolve_file(path, root).read_text(encoding="utf-8-sig"))
    except (MssegError, ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        problems.append(
            Problem(
                "bids.side_car",
                "the side-car of a scan cannot be read; a date in it is not known",
                file=shown(path, root),
                field="JSON",
                expected="a JSON object",
                remedy="write it again, or remove it",
                severity="warning",
            )
        )
        return None
    stated = [key for key in _SIDE_CAR_DATES if record.get(key)]
    for key in stated:
        if when := read_date(str(record[key])):
            return when
    if stated:
        problems.append(
            Problem(
                "bids.side_car",
                "the date in the side-car of a scan cannot be read; it is not known",
                file=shown(path, root),
                field=stated[0],
                expected="YYYY-MM-DD, YYYYMMDD or YYYY-MM-DDThh:mm:ss",
                remedy="write it again, or remove it",
                severity="warning",
            )
        )
    return None


def _with_interval(
    facts: Facts,
    order: SessionOrder,
    first: str,
    second: str,
    subject: str,
    problems: list[Problem],
) -> Facts:
    """Facts with the interval between two dates, or that of the table for a single pair."""
    days = order.interval_days(first, second)
    stated = facts.interval_days
    if days is None:
        return facts if len(order.sessions) == 2 else dataclasses.replace(facts, interval_days=None)
    if stated is not None and len(order.sessions) == 2 and abs(stated - days) > 1:
        problems.append(
            Problem(
                "bids.interval",
                "the interval in participants.tsv is not that of the dates; the dates count",
                file=subject,
                field="interval_days",
                found=f"{stated:g}",
                expected=f"{days:g}",
                remedy="correct the one that is wrong",
                severity="warning",
            )
        )
    return dataclasses.replace(facts, interval_days=days)


def _entities(file: Path) -> dict[str, str]:
    """``sub-A_run-1_FLAIR.nii.gz`` -> sub: A, run: 1."""
    stem = file.name.split(".")[0]
    parts = (part.partition("-") for part in stem.split("_"))
    return {key: value for key, dash, value in parts if dash}


def _setting(place: str) -> str:
    """The setting by which a file below the root is a reference; empty if it names no subject."""
    found = re.search(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+", place)
    session = re.search(r"(?<![A-Za-z0-9])ses-[A-Za-z0-9]+", place)
    subject = found[0] if found else ""
    names = {"subject": subject, "session": session[0] if session else ""}
    return f"read.masks.{TARGET}='{pattern_of(place, **names)}'" if subject else ""


def _kind_of(file: Path) -> str:
    return re.sub(r"(sub|ses)-[^_]+_", "", file.name)


def _same(key: str, one: str | None, other: str | None) -> bool:
    numbers = key in _INDICES and (one or "").isdigit() and (other or "").isdigit()
    if numbers and one is not None and other is not None:
        return int(one) == int(other)
    return one == other


def _is_of(file: Path, name: str, label: str) -> bool:
    """Whether a mask is of one kind: by label, and by rater."""
    entities = _entities(file)
    desc = entities.get("desc", "")
    if name == BRAIN:
        return entities.get("label") == "brain" or (desc == "brain" and "label" not in entities)
    if entities.get("label") != label:
        return False
    rater = re.fullmatch(r"rater0*(\d+)", desc)
    if "rater" in name:
        return rater is not None and name.endswith(f"rater{rater[1]}")
    if name == ADJUDICATED:
        return desc == "adjudicated"
    return not desc.startswith(("rater", "adjudicated"))


def _fit(mask: Mapping[str, str], scan: Mapping[str, str]) -> int | None:
    """Number of entities that a mask shares with a scan; None if they contradict."""
    own = {key: value for key, value in mask.items() if key not in _OF_MASKS}
    if "space" not in scan and own.get("space") in _NATIVE:
        del own["space"]
    if any(own.get(key) != scan.get(key) for key in ("space", "res")):
        return None
    if not all(_same(key, value, scan.get(key)) for key, value in own.items()):
        return None
    return len(own)


def _incomplete(folder: Path, scans: Mapping[str, Path]) -> Problem:
    return Problem(
        "pair.incomplete",
        "left out: fewer than two sessions with a FLAIR",
        file=folder.name,
        field="ses-*",
        found=f"{len(scans)} sessions",
        expected="2 or more",
        remedy="nothing to do, or add the missing session",
        severity="warning",
    )


def _misplaced(file: Path, root: Path) -> list[Problem]:
    """Problem of a file whose name tells another subject or session than its folders."""
    subject, session = file.parts[-4], file.parts[-3]
    entities = _entities(file)
    named = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    if all(name in (subject, session) for name in named):
        return []
    return [
        Problem(
            "bids.misplaced",
            "name and folder of a file tell different subjects or sessions",
            file=shown(file, root),
            field="file name",
            found="_".join(named),
            expected=f"{subject}_{session}",
            remedy="rename the file, or move it to the folders of its subject and session",
        )
    ]


def _ambiguous(files: Sequence[Path], root: Path) -> Problem:
    found = [_entities(file) for file in files]
    keys = dict.fromkeys(key for entities in found for key in entities)
    telling = [
        key
        for key in keys
        if sum(_same(key, found[0].get(key), one.get(key)) for one in found) == 1
    ]
    by_entity = ""
    if telling and telling[0] in (*_INDICES, "acq", "rec", "ce", "dir", "space", "res", "desc"):
        value = found[0].get(telling[0], "null")
        by_entity = f", or by an entity of all sessions: +read.entities.{telling[0]}={value}"
    return Problem(
        "bids.ambiguous",
        "several files fit",
        file=shown(files[0], root),
        field="file",
        found=", ".join(shown(file, root) for file in files),
        expected="one file",
        remedy="choose one, e.g. "
        f"'read.choose=[{shown(files[0], root)}]' (all choices in one list){by_entity}"
        "; or remove the others",
    )

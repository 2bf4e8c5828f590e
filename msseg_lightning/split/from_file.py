"""Splits from files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.files import read_record
from msseg_lightning.core.paths import resolve_file, shown
from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.split.patients import draw, pair_ids, patients_of
from msseg_lightning.split.split import PARTS, Split, check_fold, data_hash
from msseg_lightning.split.validation import share_of

logger = logging.getLogger(__name__)


class FromFile:
    """A split that is read from a file.

    Args:
        path: JSON as written by :func:`write_split`, or ``{"folds": [...], "data_hash": ...}``
            with one such object for each fold. ``val`` may be left out. A file without
            ``data_hash`` is taken with a warning, unless it lies in the data's own folder.
        validation: share of the training patients to take for validation where the file names
            none; drawn by patient, stratified.
        seed: of that draw.
    """

    def __init__(self, path: str | Path, validation: float = 0.0, seed: int = 0) -> None:
        self.path = Path(path)
        self.validation = share_of(validation)
        self.seed = seed

    def split(
        self,
        subjects: Sequence[LongitudinalSubject],
        fold: int = 0,
        has_lesions: Mapping[str, bool] | None = None,
    ) -> Split:
        """The split of this data set.

        Raises:
            MssegError: not such a file, made for other data, ids that are not there, or a patient
                in two parts (exit 3); no such fold (exit 2).
        """
        if not self.path.exists():
            raise MssegError(
                Problem(
                    "split.missing",
                    "there is no such split file",
                    file=self.path,
                    field="split.path",
                    remedy="split.path=FILE, with the file that was meant",
                )
            )
        name = shown(self.path)
        content = self._read(name)
        chosen, common = content, content
        if "folds" not in content and fold != content.get("fold"):
            check_fold(fold, 1)  # one division is not five folds with the same patients
        elif "folds" in content:
            check_fold(fold, len(content["folds"]))
            chosen = content["folds"][fold]
        parts: dict[str, list[str]] = {part: chosen.get(part, []) for part in PARTS}
        problems = list(_check_parts(parts, subjects, name))
        now = data_hash(subjects)
        then = str(chosen.get("data_hash") or common.get("data_hash") or "")
        if then and then != now:
            problems.append(
                Problem(
                    "split.other_data",
                    "the split was made for other data",
                    file=name,
                    field="data_hash",
                    found=now,
                    expected=then,
                    remedy="restore the data, or split=kfold for a new split",
                )
            )
        if problems:
            raise MssegError(problems)
        if not then and not self._lies_with(subjects):
            logger.warning("%s states no data_hash; only the ids were compared", name)
        if self.validation and not parts["val"]:
            wanted = set(parts["train"])
            patients = patients_of([one for one in subjects if one.id in wanted], has_lesions)
            val, train = draw(patients, self.validation, self.seed, f"validation file {fold}")
            parts |= {"train": list(pair_ids(train)), "val": list(pair_ids(val))}
        return Split(
            train=tuple(parts["train"]),
            val=tuple(parts["val"]),
            test=tuple(parts["test"]),
            kind="file",
            fold=fold,
            seed=int(chosen.get("seed", 0)),
            data_hash=now,
        )

    def _lies_with(self, subjects: Sequence[LongitudinalSubject]) -> bool:
        """Whether the file is in the folder of the data, as that of a simulated cohort.

        Such a division is of these pairs whichever reader takes them, with or without some masks;
        so it can state no hash, which is of what a reader takes.
        """
        folder = self.path.resolve().parent
        return all(one.root is not None and one.root.resolve() == folder for one in subjects)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = read_record(resolve_file(self.path))
            folds = content.get("folds", [content])
            if not isinstance(folds, list) or not folds:
                raise ValueError("folds is a list of divisions")
            for each in folds:
                lists = [each.get(part, []) for part in PARTS]
                if not all(isinstance(ids, list) for ids in lists):
                    raise ValueError("train, val and test are lists")
                if not all(isinstance(identifier, str) for ids in lists for identifier in ids):
                    raise ValueError("ids are strings")
                if not (each.get("train") or each.get("test")):
                    raise ValueError("neither train nor test")
                int(each.get("seed", 0))
        except (ValueError, AttributeError, TypeError) as error:
            raise MssegError(
                Problem(
                    "split.unreadable",
                    "not a split file",
                    file=name,
                    field="train, val, test",
                    found=str(error)[:200] or type(error).__name__,
                    expected="JSON with lists of ids",
                    remedy="split.path=FILE with the split.json of a run, or split=kfold",
                )
            ) from None
        return dict(content)


def _check_parts(
    parts: Mapping[str, Sequence[str]], subjects: Sequence[LongitudinalSubject], name: str
) -> Iterator[Problem]:
    """Problems of the ids of a split."""
    patient_of = {subject.id: subject.patient for subject in subjects}
    listed = [identifier for part in PARTS for identifier in parts[part]]
    strange = [identifier for identifier in listed if identifier not in patient_of]
    if strange:
        yield Problem(
            "split.ids",
            "ids that are not in the data set",
            file=name,
            field="train, val, test",
            found=", ".join(strange[:8]),
            expected="ids of the data set",
            remedy="use the split with the data it was made for",
        )
    sides: dict[str, set[str]] = {}
    for part in PARTS:
        for identifier in parts[part]:
            sides.setdefault(patient_of.get(identifier, identifier), set()).add(part)
    torn = sorted(patient for patient, where in sides.items() if len(where) > 1)
    if torn:
        yield Problem(
            "split.patient_twice",
            "one patient stands in two parts",
            file=name,
            field="train, val, test",
            found=", ".join(torn[:8]),
            expected="each patient in one part",
            remedy="move all pairs of a patient together",
        )
    for part in PARTS:
        twice = [identifier for identifier, count in Counter(parts[part]).items() if count > 1]
        if twice:
            yield Problem(
                "split.id_twice",
                "an id stands twice in one part, so the pair would count twice",
                file=name,
                field=part,
                found=", ".join(twice[:8]),
                expected="each id once",
                remedy="write each id once",
            )

"""Scores of the systems that are compared, and the checks that they may stand in one table."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.compare.foreign import ForeignData
from msseg_lightning.core.files import DamagedFileError, read_record, require_record
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.evaluate.case_score import CaseScore, ScoreOptions
from msseg_lightning.run.folder import RunFolder, result_settings
from msseg_lightning.run.predict.rater_scores import merged
from msseg_lightning.run.predict.scores import PROTOCOL
from msseg_lightning.run.train.cost import model_parameters

NAMED = 10
"""Patients and settings that a refusal names."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a system costs; None where it is not recorded.

    Args:
        minutes: of fitting, all folds of one seed.
        parameters: of all networks that predict a pair.
        cpu_minutes: of all processor cores while fitting, all folds of one seed.
        peak_mib: largest memory of a process while fitting, of all folds.
    """

    minutes: float | None = None
    parameters: int | None = None
    cpu_minutes: float | None = None
    peak_mib: int | None = None


@dataclasses.dataclass(frozen=True)
class System:
    """Scores of one system.

    Args:
        name: as shown.
        seeds: seed -> pair -> score.
        patients: pair -> patient.
        known_training: whether it is recorded what it was trained on, for every pair.
        rules: protocol and options of the scorer.
        cost: of the runs.
        folders: that were read.
        predictions: seed -> pair -> folder with its mask and probability map.
        left_out: pairs that it scored and some other system did not.
        operating_point: in words; empty where the system's own rules were used.
        chosen_on: pairs of its scores that the operating point was chosen on.
        raters: rater -> pair -> scores, see ``run.predict.rater_scores``; empty if not recorded.
        reported: measure -> figure of the paper, from the card of its runs.
    """

    name: str
    seeds: Mapping[int, Mapping[str, CaseScore]]
    patients: Mapping[str, str]
    known_training: bool
    rules: str
    cost: Cost
    folders: tuple[Path, ...]
    predictions: Mapping[int, Mapping[str, Path]] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    operating_point: str = ""
    chosen_on: frozenset[str] = frozenset()
    raters: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    reported: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def pairs(self) -> set[str]:
        """Pairs that every seed scored."""
        return set.intersection(*(set(cases) for cases in self.seeds.values()))

    def only(self, pairs: Iterable[str]) -> System:
        """The same system on fewer pairs."""
        kept = set(pairs)
        scored = set().union(*self.seeds.values())
        seeds = {
            seed: {pair: score for pair, score in cases.items() if pair in kept}
            for seed, cases in self.seeds.items()
        }
        return dataclasses.replace(self, seeds=seeds, left_out=tuple(sorted(scored - kept)))


@dataclasses.dataclass(frozen=True)
class _Scored:
    """One folder with scores: a run, all folds of a seed, or predictions of a data set."""

    names: tuple[str, ...]  # from the shortest to the one that is certainly its own
    group: str  # folders of one group are folds and seeds of one system
    seed: int
    cases: Mapping[str, CaseScore]
    pairs: Mapping[str, Mapping[str, Any]]
    rules: str
    cost: Cost
    folder: Path
    predictions: Mapping[str, Path]
    settings: Mapping[str, Any] | None = None
    operating_point: str = ""
    chosen_on: frozenset[str] = frozenset()
    raters: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    reported: Mapping[str, float] = dataclasses.field(default_factory=dict)


def read_systems(
    words: Sequence[str],
    data: ForeignData | None = None,
    common: bool = False,
    version: str | None = None,
) -> list[System]:
    """Read scores of runs, of all folds, of predicted data sets, and of folders of masks.

    Folds and seeds of one experiment become one system.

    Args:
        words: folders, also as ``NAME=FOLDER``; folders of one name are seeds of one system.
        data: references of folders that hold masks without scores.
        common: leave out pairs that not every system and seed has scored.
        version: of the references, see ``read.reference.read_reference``; masks of folders that
            were scored against another version are read and scored again. None keeps the scores.

    Raises:
        MssegError: a folder has no scores (exit 3); or the systems may not stand in one table,
            because of other rules, references, patients or training data (exit 3).
    """
    folders = [(name, folder) for word in words for name, folder in _expanded(word)]
    scored = [_read(name, folder) for name, folder in folders if _is_scored(folder)]
    foreign = [(name, folder) for name, folder in folders if not _is_scored(folder)]
    if version is not None:
        scored = [_against(one, version, data) for one in scored]
    options = _options(scored)
    if version is not None:
        options = dataclasses.replace(options, reference=version)
    numbers: collections.Counter[str] = collections.Counter()
    for name, folder in foreign:
        known = {case: facts for one in scored for case, facts in one.pairs.items()}
        found = _score_masks(name, folder, data, options, known, numbers[name or str(folder)])
        numbers[name or str(folder)] += 1
        scored.append(found)
    systems = _systems(scored)
    _refuse_other_rules(systems)
    _refuse_other_references(systems)
    _refuse_other_training(scored)
    return _on_the_same_pairs(systems, common)


def _expanded(word: str) -> list[tuple[str, Path]]:
    """Name and folder of a word; the folder of several seeds stands for that of every seed."""
    name, folder = "", Path(word)
    if not folder.exists() and "=" in word:
        name, _, rest = word.partition("=")
        folder = Path(rest)
    if not folder.is_dir():
        raise _problem(
            "compare.missing",
            "there is no such folder",
            file=folder,
            expected="the folder of a run, of all its folds, or of predicted masks",
            remedy="check the spelling; `msseg compare --help` shows what can be compared",
            exit_code=ExitCode.CONFIG,
        )
    several = re.fullmatch(r"(.+-seed)s(\d+(?:\+\d+)*)", folder.resolve().name)
    if several and not _is_scored(folder):
        parent = folder.resolve().parent
        return [(name, parent / f"{several[1]}{seed}") for seed in several[2].split("+")]
    return [(name, folder)]


def _is_scored(folder: Path) -> bool:
    return (folder / "scores.json").exists() or (folder / "config.yaml").exists()


def _read(name: str, folder: Path) -> _Scored:
    file = folder / "scores.json"
    try:
        content = read_record(file, {"cases": dict, "pairs": dict})
        cases = {case: CaseScore.from_dict(row) for case, row in content["cases"].items()}
        pairs = {
            case: {key: content["pairs"][case][key] for key in ("patient", "learned_from")}
            for case in cases
        }
        ScoreOptions(**content["options"])
        if not cases or not all(score.reference_hash for score in cases.values()):
            raise DamagedFileError("no scores with the hash of their reference")
    except (OSError, DamagedFileError, KeyError, TypeError, AttributeError) as error:
        raise _problem(
            "compare.no_scores",
            "this folder has no scores that can be compared",
            file=file,
            found=_said(error),
            expected="scores with patients and hashes of references, of this version",
            remedy="delete the file, and those of the folds, and give the command that made it "
            "again; what was fitted is kept",
        ) from error
    path = folder.resolve()
    rules = _rules(content.get("protocol"), content["options"])
    point = content.get("operating_point") or {}
    if "model" in content:  # predictions of a data set, or a run at its operating point
        system = str(content["model"].get("system"))
        return _Scored(
            names=(name,) if name else (system, f"{system} ({path.name})", str(path)),
            group=name or str(path),
            seed=0,
            cases=cases,
            pairs=pairs,
            rules=rules,
            cost=Cost(),
            folder=folder,
            predictions=dict.fromkeys(cases, path),
            operating_point=str(point.get("is", "")),
            chosen_on=frozenset(point.get("chosen_on_scored", ())),
            raters=content.get("raters") or {},
        )
    stem = re.sub(r"-(fold\d+|folds[\d+]+)|-seed\d+$", "", path.name)
    system, root, runs = path.parent.name, path.parent.parent.name, _runs_of(path)
    config = RunFolder(path).config() if (path / "config.yaml").exists() else None
    settings = result_settings(config) if config else None
    return _Scored(
        names=(name,)
        if name
        else (system, f"{system} ({stem})", f"{system} ({root}, {stem})", str(path.parent / stem)),
        group=name or f"{path.parent}/{stem}",
        seed=int(content.get("seed", 0)),
        cases=cases,
        pairs=pairs,
        rules=rules,
        cost=_cost(path, runs),
        folder=folder,
        predictions={case: runs.get(case, path) / "predictions" for case in cases},
        settings=settings,
        raters=content.get("raters") or {},
        reported=reported_figures(((config or {}).get("card") or {}).get("reported") or {}),
    )


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"[:200]


def _rules(protocol: object, options: Mapping[str, Any]) -> str:
    every = dataclasses.asdict(ScoreOptions(**options))
    return json.dumps({"protocol": protocol, "options": every}, sort_keys=True)


def _against(one: _Scored, version: str, data: ForeignData | None) -> _Scored:
    """The scores of the same masks against another version of the references."""
    rules = json.loads(one.rules)
    options = ScoreOptions(**{**rules["options"], "reference": version})
    if options == ScoreOptions(**rules["options"]):
        return one
    data = data or _data_of(one)
    cases: dict[str, CaseScore] = {}
    for folder in sorted(set(one.predictions.values())):
        wanted = {case for case, place in one.predictions.items() if place == folder}
        cases |= data.only(wanted).score(folder, options)[0]
    missing = sorted(one.cases.keys() - cases.keys())
    if missing:
        raise _problem(
            "compare.masks",
            "masks that were scored are not there to be scored again",
            file=one.folder,
            field="predictions",
            found=f"none of {_some(missing)}",
            expected="the masks of all scored pairs",
            remedy="give the command that made them again; what was fitted is kept",
        )
    ordered = {case: cases[case] for case in one.cases}
    return dataclasses.replace(
        one, cases=ordered, rules=_rules(rules["protocol"], dataclasses.asdict(options))
    )


def _data_of(one: _Scored) -> ForeignData:
    """The data set of a run, whose settings say where it is."""
    folder = next(iter(one.predictions.values())).parent
    if not (folder / "config.yaml").exists():
        raise _problem(
            "compare.no_reference",
            "this folder does not say of which data set its masks are",
            file=one.folder,
            field="read",
            expected="the data set with the references",
            remedy="add the data set: read=msseg2 read.root=FOLDER",
            exit_code=ExitCode.CONFIG,
        )
    return ForeignData.of_config(RunFolder(folder).config())


def _options(scored: Sequence[_Scored]) -> ScoreOptions:
    """Options by which folders of masks are scored: those of the first run."""
    if not scored:
        return ScoreOptions()
    return ScoreOptions(**(json.loads(scored[0].rules)["options"] or {}))


def _runs_of(path: Path) -> dict[str, Path]:
    """Pair -> run that held it out, of the folder of all folds; else empty."""
    file = path / "out_of_fold.json"
    if not file.exists():
        return {}
    origin = require_record(file, "give the `msseg train` command of all folds again")
    return {case: path.parent / one["run"] for case, one in origin.items()}


def _cost(path: Path, runs: Mapping[str, Path]) -> Cost:
    """Minutes and parameters of a run, or of all folds of a seed."""
    folders = sorted(set(runs.values())) or [path]
    records = [RunFolder(run).record() for run in folders]
    return Cost(
        minutes=_total([record.get("fit_minutes") for record in records]),
        parameters=model_parameters(folders[0] / "model"),
        cpu_minutes=_total([record.get("fit_cpu_minutes") for record in records]),
        peak_mib=_largest([record.get("peak_mib") for record in records]),
    )


def _score_masks(
    name: str,
    folder: Path,
    data: ForeignData | None,
    options: ScoreOptions,
    known: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> _Scored:
    if data is None:
        raise _problem(
            "compare.no_reference",
            "this folder holds no scores, and no references are given to score its masks",
            file=folder,
            field="--reference",
            expected="the folder of a run, or masks with references",
            remedy="add --reference FOLDER, or the data set: read=msseg2 read.root=FOLDER",
            exit_code=ExitCode.CONFIG,
        )
    cases, patients = data.score(folder, options)
    pairs = {
        case: {
            "patient": patients.get(case) or known.get(case, {}).get("patient", case),
            "learned_from": None,
        }
        for case in cases
    }
    return _Scored(
        names=(name,) if name else (folder.resolve().name, str(folder.resolve())),
        group=name or str(folder.resolve()),
        seed=seed,
        cases=cases,
        pairs=pairs,
        rules=_rules(PROTOCOL, dataclasses.asdict(options)),
        cost=Cost(),
        folder=folder,
        predictions=dict.fromkeys(cases, folder),
        raters=data.raters(cases, options),
    )


def _systems(scored: Sequence[_Scored]) -> list[System]:
    """Folders of one group as one system, each with the shortest name that only it has."""
    groups: dict[str, list[_Scored]] = {}
    for one in scored:
        groups.setdefault(one.group, []).append(one)
    level = dict.fromkeys(groups, 0)

    def name_of(group: str) -> str:
        names = groups[group][0].names
        return names[min(level[group], len(names) - 1)]

    while clashes := [
        group
        for group in groups
        if sum(name_of(group) == name_of(other) for other in groups) > 1
        and level[group] < len(groups[group][0].names) - 1
    ]:
        for group in clashes:
            level[group] += 1
    return [_system(name_of(group), members) for group, members in groups.items()]


def _system(name: str, members: Sequence[_Scored]) -> System:
    seeds: dict[int, dict[str, CaseScore]] = {}
    costs: dict[int, list[Cost]] = {}
    for one in members:
        cases = seeds.setdefault(one.seed, {})
        twice = sorted(cases.keys() & one.cases)
        if twice:
            raise _problem(
                "compare.twice",
                f"{name} has two scores of a pair with one seed",
                file=one.folder,
                field="pair",
                found=f"{_some(twice)}, seed {one.seed}",
                expected="every pair once for each seed",
                remedy="give either the folder of all folds or the folds, each once; other systems "
                "take another name: NAME=FOLDER",
                exit_code=ExitCode.CONFIG,
            )
        cases |= one.cases
        costs.setdefault(one.seed, []).append(one.cost)
    _refuse_other_settings(name, members)
    if len({one.rules for one in members}) > 1:
        raise _other_rules([(str(one.folder), one.rules) for one in members])
    pairs = {case: facts for one in members for case, facts in one.pairs.items()}
    predictions: dict[int, dict[str, Path]] = {}
    for one in members:
        predictions.setdefault(one.seed, {}).update(one.predictions)
    return System(
        name=name,
        seeds={seed: seeds[seed] for seed in sorted(seeds)},
        patients={case: str(facts["patient"]) for case, facts in pairs.items()},
        known_training=all(facts["learned_from"] is not None for facts in pairs.values()),
        rules=members[0].rules,
        cost=Cost(
            minutes=_per_seed([[one.minutes for one in folds] for folds in costs.values()]),
            parameters=members[0].cost.parameters,
            cpu_minutes=_per_seed([[one.cpu_minutes for one in folds] for folds in costs.values()]),
            peak_mib=_largest([one.peak_mib for folds in costs.values() for one in folds]),
        ),
        folders=tuple(one.folder for one in members),
        predictions=predictions,
        operating_point="; ".join(
            dict.fromkeys(filter(None, (m.operating_point for m in members)))
        ),
        chosen_on=frozenset().union(*(one.chosen_on for one in members)),
        raters=merged(one.raters for one in members),
        reported=members[0].reported,
    )


def _per_seed(seeds: Sequence[Sequence[float | None]]) -> float | None:
    """Mean over seeds of the sum over folds; None if one is not recorded."""
    sums = [_total(folds) for folds in seeds]
    total = _total(sums)
    return None if total is None else total / len(sums)


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _largest(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def reported_figures(reported: Mapping[str, Any]) -> dict[str, float]:
    """Lesion F1 and Dice that a card reports; figures of parts of a system are not taken."""
    found: dict[str, float] = {}
    for measure, names in REPORTED.items():
        for name, scale in names:
            value = reported.get(name)
            value = value.get("mean") if isinstance(value, Mapping) else value
            if isinstance(value, int | float) and measure not in found:
                found[measure] = value * scale
    return found


REPORTED: Mapping[str, tuple[tuple[str, float], ...]] = {
    "f1": (("f1", 1.0), ("f1_percent", 0.01)),
    "dice": (("dice", 1.0), ("dice_percent", 0.01), ("modified_dice", 1.0)),
}
"""Measure -> names of figures in cards, and what they are multiplied by."""


def _refuse_other_settings(name: str, members: Sequence[_Scored]) -> None:
    known = [(one.folder, one.settings) for one in members if one.settings is not None]
    for folder, settings in known[1:]:
        first = known[0][1]
        differ = sorted(
            key
            for key in {*first, *settings} - {"fold", "seed"}
            if first.get(key) != settings.get(key)
        )
        if differ:
            raise _problem(
                "compare.settings",
                f"folds and seeds of {name} were trained with different settings",
                file=folder,
                field=_some(differ),
                found=_some([str(settings.get(key)) for key in differ]),
                expected=_some([str(first.get(key)) for key in differ]),
                remedy="give each its own name: NAME=FOLDER; or train this one again with the "
                "settings of the others and overwrite=true",
            )


def _refuse_other_rules(systems: Sequence[System]) -> None:
    if len({one.rules for one in systems}) > 1:
        raise _other_rules([(one.name, one.rules) for one in systems])


def _other_rules(rules: Sequence[tuple[str, str]]) -> MssegError:
    first = rules[0]
    other = next(one for one in rules if one[1] != first[1])
    return _problem(
        "compare.rules",
        "the systems were scored by different rules",
        file=other[0],
        field="protocol, options",
        found=other[1],
        expected=f"{first[1]}, as {first[0]}",
        remedy="score all by the same rules: train or predict again with the same evaluate.* "
        "settings and this version",
    )


def _refuse_other_references(systems: Sequence[System]) -> None:
    """Refuse scores of one pair that were made with different reference masks."""
    hashes: dict[str, tuple[str, str]] = {}
    for one in systems:
        differ = []
        for cases in one.seeds.values():
            for pair, score in cases.items():
                expected = hashes.setdefault(pair, (score.reference_hash, one.name))
                if expected[0] != score.reference_hash:
                    differ.append((pair, score.reference_hash, expected))
        if differ:
            pair, found, (expected_hash, whose) = differ[0]
            raise _problem(
                "compare.reference",
                f"{len({one[0] for one in differ})} pairs were scored with different references",
                file=one.folders[0],
                field=f"reference_hash of {pair}",
                found=f"{found} ({one.name})",
                expected=f"{expected_hash} ({whose})",
                remedy="references have versions (consensus, raters): score all systems with the "
                "same masks, and compare each version in a table of its own",
            )


def _on_the_same_pairs(systems: Sequence[System], common: bool) -> list[System]:
    """All systems on the pairs that all have scored.

    Raises:
        MssegError: some were scored by a part of the systems only, and ``common`` is not set; or
            no pair was scored by all.
    """
    every = [(one, seed, set(cases)) for one in systems for seed, cases in one.seeds.items()]
    shared = set.intersection(*(pairs for _, _, pairs in every))
    union = set().union(*(pairs for _, _, pairs in every))
    if not shared:
        sizes = ", ".join(f"{one.name} seed {seed}: {len(pairs)}" for one, seed, pairs in every)
        raise _problem(
            "compare.no_common",
            "no pair was scored by all systems and seeds",
            field="pairs",
            found=sizes,
            expected="systems tested on the same patients",
            remedy="give all systems the same folds: `msseg train EXPERIMENT ... fold=all`",
        )
    if union - shared and not common:
        lacking = [
            f"{one.name}{f' seed {seed}' if len(one.seeds) > 1 else ''} lacks "
            f"{_some(sorted(union - pairs))}"
            for one, seed, pairs in every
            if union - pairs
        ]
        raise _problem(
            "compare.patients",
            f"{len(union - shared)} of {len(union)} pairs were not scored by every system",
            field="pairs",
            found="; ".join(lacking),
            expected="the same pairs for every system and seed",
            remedy="score the missing ones, or add --common to leave out these pairs",
        )
    return [one.only(shared) for one in systems]


def _refuse_other_training(scored: Sequence[_Scored]) -> None:
    """Refuse folders that predicted one pair after training on different pairs."""
    known: dict[str, tuple[str, Path]] = {}
    for one in scored:
        for pair in sorted(one.pairs):
            learned = one.pairs[pair]["learned_from"]
            if learned is None:
                continue
            first, whose = known.setdefault(pair, (learned, one.folder))
            if first != learned:
                raise _problem(
                    "compare.split",
                    "the systems were trained on different patients",
                    file=one.folder,
                    field=f"training patients of the run that predicted {pair}",
                    found=learned,
                    expected=f"{first}, as {whose}",
                    remedy="train all systems with the same split and folds; split=file "
                    "split.path=RUN/split.json takes the patients of a run",
                )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _problem(code: str, message: str, **more: Any) -> MssegError:
    return MssegError(Problem(code, message, **{"exit_code": ExitCode.DATA, **more}))

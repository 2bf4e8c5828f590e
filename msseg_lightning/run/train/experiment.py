"""Training of one experiment: split, fit, predict the held-out pairs, score, report, track."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msseg_lightning.core.files import require_record, write_settings
from msseg_lightning.core.input_hash import input_hash
from msseg_lightning.core.method import FitContext, Method, Track, untracked
from msseg_lightning.core.outputs import refuse_inside_data
from msseg_lightning.core.problem import MssegError, Problem
from msseg_lightning.core.progress import track
from msseg_lightning.core.subject import TARGET, LongitudinalSubject
from msseg_lightning.core.subject_map import map_subjects
from msseg_lightning.evaluate.score import CaseScore
from msseg_lightning.method.network_method import INITIAL_WEIGHTS
from msseg_lightning.read.identity import same_patients
from msseg_lightning.read.nifti import gate_options
from msseg_lightning.read.reader import raise_errors, read_subjects, warnings_of
from msseg_lightning.read.reference import has_new_lesions
from msseg_lightning.run.assemble.system import (
    build_method,
    check_buildable,
    further_subjects,
    instantiate,
    number_of_maps,
    require_hardware,
)
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.predictor import Predictor
from msseg_lightning.run.predict.rater_scores import score_raters
from msseg_lightning.run.predict.scores import pair_facts, score_options, write_scores
from msseg_lightning.run.train.cost import (
    FitCost,
    device,
    length_facts,
    model_parameters,
    peak_mib,
)
from msseg_lightning.run.train.debug_split import debug_split
from msseg_lightning.run.train.initial_weights import refuse_seen, with_initial_weights
from msseg_lightning.run.train.mlflow_run import (
    close_run,
    end_status,
    log_results,
    open_run,
    tracked_part,
    without_paths,
)
from msseg_lightning.split.split import Split

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """Folder and scores of a finished run.

    Args:
        folder: the run folder.
        summary: the two-group summary of the held-out pairs.
        tracking_uri: store of the run; None if it is not tracked.
    """

    folder: RunFolder
    summary: dict[str, Any]
    tracking_uri: str | None


def train_experiment(config: Config, with_report: bool = True) -> TrainingResult:
    """Train an experiment and score its held-out pairs, or continue an interrupted run.

    Args:
        config: from ``compose_config``.
        with_report: write ``report.html``.

    Raises:
        MssegError: any error that the user can correct; the run gets the matching status.
    """
    places = {f"paths.{name}": config["paths"][name] for name in ("runs", "cache")}
    refuse_inside_data(config["read"].get("root"), places)
    given, config = config, with_initial_weights(config)
    folder = RunFolder.from_config(config)
    with folder.lock():
        try:
            folder.claim_config(config)
            tracking = instantiate(config.get("track")) or None
            check_buildable(config)
            require_hardware(config)
            subjects = labelled_subjects(config)
            split = debug_split(config, make_split(config, subjects), subjects)
            refuse_seen(given, config, subjects, split)
            folder.claim_split(split)
        except MssegError:  # a refused experiment leaves no folder and no failed run in the store
            folder.withdraw_claim()
            raise
        tracker = open_run(config, folder, split, tracking)
        if tracker is None or tracking is None:
            return TrainingResult(folder, _run(config, folder, subjects, split, with_report), None)
        try:
            part = functools.partial(tracked_part, tracking, folder, config)
            summary = _run(config, folder, subjects, split, with_report, tracker, part)
            log_results(tracker, folder, summary, tracking.pseudonyms.name)
        except BaseException as error:
            close_run(tracker, folder, end_status(error))
            raise
        close_run(tracker, folder, "FINISHED", tracking)
        return TrainingResult(folder, summary, tracking.uri)


def labelled_subjects(config: Config) -> dict[str, LongitudinalSubject]:
    """Every pair with a reference mask, by id.

    Raises:
        MssegError: there is none.
    """
    reader = instantiate(config["read"])
    found = read_subjects(reader)
    subjects = {subject.id: subject for subject in found}
    labelled = {name: subject for name, subject in subjects.items() if subject.labelled}
    if not labelled:
        named = [problem for problem in reader.skipped() if "read." in problem.remedy]
        raise MssegError(
            Problem(
                "data.no_reference",
                f"none of the {len(subjects)} pairs has a mask of new lesions",
                file=config["read"].get("root"),
                field=TARGET,
                found=", ".join(f"{one.file}: {one.remedy}" for one in named)[:600],
                remedy="give the masks the names that are read (`msseg check --layout`), or say "
                "what they are called (`msseg check` names what was not used), or apply a trained "
                "system: `msseg predict` needs none",
            )
        )
    if len(labelled) < len(subjects):
        left = sorted(set(subjects) - set(labelled))
        log.warning(
            "%d pairs without a reference are left out: %s", len(left), ", ".join(left[:20])
        )
    return labelled


def make_split(config: Config, subjects: dict[str, LongitudinalSubject]) -> Split:
    """The split of this fold; all pairs of a patient are in one part."""
    pairs = list(subjects.values())
    refuse_copies([*pairs, *further_subjects(config)])
    options = gate_options(config["data"]["reading"])
    has_lesions = {
        subject.id: bool(has_new_lesions(subject, options))
        for subject in track(pairs, "reading reference masks")
    }
    split: Split = instantiate(config["split"]).split(pairs, config["fold"], has_lesions)
    return split


def refuse_copies(subjects: Sequence[LongitudinalSubject]) -> None:
    """Refuse equal scans of two patients, since one could be in training and the other in testing.

    Data of stages are included: a patient must have the same name there. Files are compared byte by
    byte; `msseg check` also finds equal voxels in different files. Names of patients that differ
    only in case or by ``sub-`` count as one person.

    Raises:
        MssegError: one problem per copy or name (exit 3).
    """
    owners: dict[str, tuple[str, Path]] = {}
    problems = list(same_patients((subject.patient for subject in subjects), "all data of the run"))
    for problem in warnings_of(problems):
        log.warning("%s", problem)
    for subject in subjects:
        for file in filter(Path.is_file, subject.images.values()):
            patient, first = owners.setdefault(input_hash(file), (subject.patient, file))
            if patient != subject.patient:
                problems.append(
                    Problem(
                        "data.copy",
                        "two patients have the same scan",
                        file=Path(*file.parts[-2:]),
                        field="bytes",
                        found=f"identical to {Path(*first.parts[-2:])}",
                        expected="each scan once",
                        remedy="remove one, or give both the same patient",
                    )
                )
    raise_errors(problems)


def _run(
    config: Config,
    folder: RunFolder,
    subjects: dict[str, LongitudinalSubject],
    split: Split,
    with_report: bool,
    tracker: Any = None,
    part: Track = untracked,
) -> dict[str, Any]:
    from msseg_lightning.run.train.run_report import build_report
    from msseg_lightning.track.lightning_logger import TrackerLogger

    method = build_method(config)
    context = FitContext(
        held_out=frozenset(subjects[name].patient for name in split.test),
        loggers=(TrackerLogger(tracker),) if tracker is not None else (),
        track=part,
    )
    folder.update_record(status="fitting", device=device(config), **length_facts(config))
    cost = FitCost(folder.record())
    try:
        method.fit(
            [subjects[name] for name in split.train],
            [subjects[name] for name in split.val],
            folder.fit,
            context,
        )
    finally:  # an interrupted training goes on in another process
        folder.update_record(**cost.facts())
    save_model(method, config, folder)
    parameters = model_parameters(folder.model)
    if found := initial_weights(folder, Path(config["paths"]["cache"])):
        folder.update_record(initial_weights=found)
    folder.update_record(status="predicting", stages=fitted_stages(folder), parameters=parameters)
    held_out = [subjects[name] for name in split.test]
    scores = score_held_out(method, held_out, folder, config)
    facts = {
        "split": {"kind": split.kind, "fold": split.fold, "data_hash": split.data_hash},
        "seed": config["seed"],
        "commit": folder.record().get("commit"),
        "pairs": pair_facts(held_out, (*split.train, *split.val)),
        "raters": score_raters(
            held_out, gate_options(config["data"]["reading"]), score_options(config)
        ),
    }
    summary = write_scores(folder.path, scores, score_options(config), facts)
    folder.update_record(peak_mib=max(folder.record().get("peak_mib", 0), peak_mib()))
    if with_report:
        folder.update_record(status="reporting")
        build_report(folder, folder.report_file)
    folder.update_record(status="finished")
    return summary


def fitted_stages(folder: RunFolder) -> dict[str, dict[str, str]]:
    """Name of a fit (a member, or the run itself) -> stage -> hash of everything it depends on."""
    found = {}
    remedy = f"delete the folder {folder.fit} and give the `msseg train` command again"
    for record in sorted(folder.fit.rglob("stages.json")):
        place = record.parent.relative_to(folder.fit).as_posix()
        content = require_record(record, remedy, {"stages": dict})
        found[folder.path.name if place == "." else place] = dict(content["stages"])
    return found


def initial_weights(folder: RunFolder, cache: Path) -> dict[str, dict[str, Any]]:
    """Name of a fit -> the given weights that it started from; empty where none were given."""
    files = {
        file.parent.relative_to(folder.path).as_posix(): file
        for file in sorted(folder.fit.rglob(INITIAL_WEIGHTS))
    }
    for stages in fitted_stages(folder).values():  # their fits are shared by all runs
        for name, key in stages.items():
            file = cache / "stages" / f"{name}-{key[:24]}" / "fit" / INITIAL_WEIGHTS
            files |= {f"stages/{name}": file} if file.exists() else {}
    remedy = "give the `msseg train` command again with overwrite=true"
    return {name: require_record(file, remedy) for name, file in files.items()}


def save_model(method: Method, config: Config, folder: RunFolder) -> None:
    """Write the model folder for ``msseg predict``, without paths of data and store."""
    method.save(folder.model)
    write_settings(folder.model / "config.yaml", without_paths(config))


def score_held_out(
    method: Method,
    subjects: Sequence[LongitudinalSubject],
    folder: RunFolder,
    config: Config,
) -> dict[str, CaseScore]:
    """Predict each held-out pair on its native grid and score it against its reference.

    Pairs that this system has predicted already are not predicted again.

    Args:
        method: the system, equal to that in the model folder.
        subjects: labelled pairs.
        folder: the run folder.
        config: configuration of the run.

    Raises:
        MssegError: with all problems of all pairs.
    """
    several = number_of_maps(config) > 1
    apply = Predictor.from_config(
        folder.model, config, folder.predictions, loaded=method, uncertainty=several
    )
    named = {subject.id: subject for subject in subjects}
    found = map_subjects(apply, named, step="predict").all_done()
    scores = {name: score for name, score in found.items() if score is not None}
    positive = sum(score.predicted_volume_mm3 > 0 for score in scores.values())
    if scores and not positive:
        log.warning("0 of %d held-out pairs have any predicted lesion", len(scores))
    return scores

"""Apply a trained system to every pair of a data set, and score it where references exist."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import LongitudinalSubject
from msseg_lightning.evaluate.score import CaseScore
from msseg_lightning.read.splits import data_hash
from msseg_lightning.run.build import build_load, build_method, instantiate
from msseg_lightning.run.compose import Config, compose_config, refuse_targets
from msseg_lightning.run.folder import data_name
from msseg_lightning.run.predict import json_safe_config, predict_to_file, run_of, weights_hash
from msseg_lightning.run.progress import track
from msseg_lightning.run.scores import score_options, score_pair, write_scores

CHANGEABLE = ("read", "data", "infer", "postprocess", "paths", "trainer")
"""Settings that do not touch what was trained: which data, how windows slide, which rules."""


@dataclasses.dataclass(frozen=True)
class Applied:
    """What became of a data set.

    Args:
        predicted: ids of the pairs with a mask.
        summary: the two-group summary of the pairs with a reference; empty without any.
        refused: id -> why it has no mask, or no score.
    """

    predicted: tuple[str, ...]
    summary: dict[str, Any]
    refused: dict[str, MssegError]


def apply_to_data_set(
    model: Path, overrides: Sequence[str], folder: Path, include_training: bool = False
) -> Applied:
    """Write masks, maps and side-cars of all pairs into ``folder``; score those with a reference.

    A pair that is refused is left out and the others go on.

    Args:
        model: model folder, from ``find_model``.
        overrides: ``read=PRESET read.root=...`` and, if wanted, settings of ``CHANGEABLE``.
        folder: ``<id>.nii.gz``, ``<id>_probability.nii.gz``, ``<id>.json``; and ``scores.json`` and
            ``scores.csv`` where there are references.
        include_training: also take pairs the system was trained on.

    Raises:
        MssegError: a setting is unknown or would change what was trained (exit 2), or the system
            was trained on some of these pairs (exit 4).
    """
    config = changed_config(json_safe_config(model), overrides)
    subjects = instantiate(config["read"]).subjects()
    seen = trained_on(model, subjects)
    if seen and not include_training:
        raise MssegError(
            Problem(
                "predict.training_data",
                f"the system was trained on {len(seen)} of these {len(subjects)} pairs: "
                "their scores would be no test",
                file=config["read"].get("root"),
                field="read.root",
                found=", ".join(seen[:10]),
                expected="pairs the system has not seen",
                remedy="give other data, or --include-training to go on and have it recorded",
                exit_code=ExitCode.MODEL,
            )
        )
    method = build_method(config)
    method.load(model)
    load, options = build_load(config), score_options(config)
    predicted: list[str] = []
    scores: dict[str, CaseScore] = {}
    refused: dict[str, MssegError] = {}
    for subject in track(subjects, "predicting"):
        try:
            if subject.labelled:
                scores[subject.id] = score_pair(method, subject, load, folder, model, options)
            else:
                predict_to_file(method, subject, folder, model)
            predicted.append(subject.id)
        except MssegError as error:
            refused[subject.id] = error
    summary: dict[str, Any] = {}
    if scores:
        facts = {
            "data": {
                "name": data_name(config),
                "data_hash": data_hash(subjects),
                "left_out": sorted(refused),
                "trained_on": seen,
            },
            "model": {"system": config["name"], "weights_sha256": weights_hash(model)},
            "settings": [item for item in overrides if not item.startswith(("read.", "paths."))],
        }
        summary = write_scores(folder, scores, options, facts)
    return Applied(tuple(predicted), summary, refused)


def changed_config(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration of a trained system with another data set and, if wanted, other rules.

    ``read`` is composed anew: nothing of the training data's reader stays. ``postprocess=PRESET``
    and ``infer=PRESET`` replace a step, ``infer.overlap=0.25`` changes one known value of it.

    Raises:
        MssegError: a group that is not in ``CHANGEABLE``, an unknown key or a type (exit 2).
    """
    for item in overrides:
        group = item.partition("=")[0].split(".")[0]
        if group not in CHANGEABLE:
            raise _wrong(
                item, f"settings of {', '.join(CHANGEABLE)}", "train another system for the rest"
            )
    config = copy.deepcopy(config)
    for group in CHANGEABLE:
        mine = [item for item in overrides if re.match(rf"{group}[.=]", item)]
        if group == "read" or any(item.startswith(f"{group}=") for item in mine):
            read = [item for item in overrides if item.startswith("read")]
            config[group] = compose_config([*read, *(set(mine) - set(read))])[group]
            continue
        for item in mine:
            key, _, text = item.partition("=")
            _set(config, key, yaml.safe_load(text))
    refuse_targets(config)
    config["trainer"] = {**config["trainer"], "devices": 1, "num_nodes": 1, "strategy": "auto"}
    return config


def _set(config: Config, key: str, value: Any) -> None:
    """Change one dotted setting that exists already."""
    *groups, last = key.split(".")
    node: Any = config
    for name in groups:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise _wrong(key, "a setting the system has", "its config.yaml lists them all")
    node[last] = value


def _wrong(found: str, expected: str, remedy: str) -> MssegError:
    return MssegError(
        Problem(
            "predict.setting",
            "this cannot be set when a trained system is applied",
            field=found.partition("=")[0],
            found=found,
            expected=expected,
            remedy=remedy,
            exit_code=ExitCode.CONFIG,
        )
    )


def trained_on(model: Path, subjects: Sequence[LongitudinalSubject]) -> list[str]:
    """Ids of pairs that the run of this model trained or chose a checkpoint on.

    Known only for a model that lies in its run folder; data are recognised by their hash, so that
    equal ids in another data set do not matter.
    """
    run = run_of(model)
    if run is None or not run.split_file.exists():
        return []
    split = json.loads(run.split_file.read_text(encoding="utf-8"))
    labelled = [subject for subject in subjects if subject.labelled]
    if split.get("data_hash") != data_hash(labelled):
        return []
    used = {*split["train"], *split["val"]}
    return sorted(subject.id for subject in labelled if subject.id in used)

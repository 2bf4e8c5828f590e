"""Pairs and verdict of a short training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from msseg_lightning.core.files import require_record
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.core.subject import TARGET, LongitudinalSubject
from msseg_lightning.run.assemble.system import build_has_lesions
from msseg_lightning.run.config.compose import Config
from msseg_lightning.run.config.debug import FAST, LEARNED_DICE, OVERFIT, pairs_needed
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.split.split import Split
from msseg_lightning.train.training import DONE


def debug_split(config: Config, split: Split, subjects: Mapping[str, LongitudinalSubject]) -> Split:
    """The few pairs of a short training; the split itself without ``debug``.

    Raises:
        MssegError: no training pair has new lesions (exit 3).
    """
    if config.get("debug") not in (FAST, OVERFIT):
        return split
    has_lesions = build_has_lesions(config)
    ordered = sorted(split.train, key=lambda name: not has_lesions(subjects[name]))
    if not ordered or not has_lesions(subjects[ordered[0]]):
        raise MssegError(
            Problem(
                "data.all_empty",
                "no training pair has a single new lesion",
                field=TARGET,
                found=f"{len(ordered)} empty masks",
                remedy="train on pairs of which some have new lesions",
                exit_code=ExitCode.DATA,
            )
        )
    if config["debug"] == OVERFIT:
        one = (ordered[0],)
        return dataclasses.replace(split, train=one, val=one, test=one)
    kept = tuple(ordered[: pairs_needed(config)])
    return dataclasses.replace(split, train=kept, val=split.val[:1], test=split.test[:1])


def overfit_verdict(folder: RunFolder) -> str:
    """Whether the pair was learned, as a sentence.

    Raises:
        MssegError: it was not (exit 7).
    """
    done = require_record(folder.fit / DONE, "give the command again")
    best = float(done["best_score"] or 0)
    if best >= LEARNED_DICE:
        return (
            f"learned: Dice {best:.3f} on the pair it was trained on, after {done['step']} steps\n"
        )
    raise MssegError(
        Problem(
            "debug.not_learned",
            f"the network did not learn one pair in {done['step']} steps",
            file=folder.path,
            field="val/dice",
            found=f"{best:.3f}",
            expected=f"{LEARNED_DICE} or more",
            remedy="look at the curves of its report; try another train.optimizer.lr, loss=dice or "
            "augment=none, and check that the mask lies on the lesions (`msseg check`)",
            exit_code=ExitCode.NUMERICAL,
        )
    )

"""Refusals whose remedies are not followed by a test, and why: two lists, kept apart."""

from __future__ import annotations

NO_COMMAND: dict[str, str] = {
    "launch.failed": "a job of a cluster failed for a reason that stands in its own log",
    "postprocess.nan": "the network's numbers are broken; only other weights or images help",
    "infer.not_finite": "the network's numbers are broken; only other weights or images help",
    "predict.not_finite": "the network's numbers are broken; only other weights or images help",
    "weights.not_finite": "training diverged; only another training makes other weights",
    "train.not_finite": "training diverged; which learning rate holds is known after trying",
    "train.process_died": "the machine killed a process; the same command only goes on from there",
    "train.device": "the hardware that was asked for is not in this machine",
    "sweep.store_driver": "a package has to be installed, which changes the environment",
    "simulate.lesion_prior": "a public collection has to be downloaded first",
    "preprocess.registration": "a person has to look whether both scans are of one head",
    "track.store_unavailable": "a server of somebody has to be started again",
    "{step}.environment": "the machine is out of space, memory or permissions",
    "{step}.killed": "the machine is out of memory for this subject",
    "{step}.failed": "an error of the program that nobody foresaw; it has to be reported",
}
"""What only a person, another machine or another training can mend."""

NOT_FOLLOWED: dict[str, str] = dict.fromkeys(
    (
        "model.config", "model.missing", "predict.format", "predict.overwrites",
        "predict.setting", "predict.training_data", "run.busy", "run.config_changed",
        "run.config_damaged", "run.missing", "run.no_model", "run.no_scores",
        "run.split_changed", "train.stopped", "train.trainer", "train.processes",
        "product.twice", "prepare.learned",
    ),
    "its remedy gives a command to a trained run again, and no training takes place here",
) | dict.fromkeys(
    (
        "network.channels", "network.patch", "network.pretrained", "infer.inside",
        "infer.no_members", "infer.window", "sample.mask_pairs", "sample.mixed",
        "preprocess.grid", "preprocess.mask", "preprocess.nyul", "postprocess.no_probability",
        "postprocess.no_region", "config.stage", "stage.leak", "stage.no_data",
        "data.no_reference", "data.no_visits",
    ),
    "its remedy asks for another choice in the experiment, which depends on what is wanted",
) | dict.fromkeys(
    (
        "booster.card", "booster.hash", "booster.malformed", "booster.missing", "model.rule",
        "weights.format", "weights.unreadable", "prepared.finite", "prepared.name",
        "prepared.unreadable", "compare.folds", "evaluate.mask",
    ),
    "its remedy puts a sound file or array in place, as is followed here for its neighbours",
)  # fmt: skip
"""What could be followed and is not: its refusal is tested, its remedy was only read."""

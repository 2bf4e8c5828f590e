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
    "weights.format": "a newer version of the package has to be installed",
    "{step}.environment": "the machine is out of space, memory or permissions",
    "{step}.killed": "the machine is out of memory for this subject",
    "{step}.failed": "an error of the program that nobody foresaw; it has to be reported",
}
"""What only a person, another machine or another training can mend."""

NOT_FOLLOWED: dict[str, str] = dict.fromkeys(
    ("config.stage", "stage.leak", "stage.no_data"),
    "its remedy changes the stages of a system, which are fitted anew",
) | dict.fromkeys(
    ("data.no_reference", "preprocess.grid", "preprocess.mask"),
    "its remedy asks for other data or steps, as is followed here for their neighbours",
)  # fmt: skip
"""What could be followed and is not: its refusal is tested, its remedy was only read."""

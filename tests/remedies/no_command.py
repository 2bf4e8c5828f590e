"""Refusals whose remedies no test can follow, and why."""

from __future__ import annotations

NO_COMMAND: dict[str, str] = {
    "launch.failed": "a job of a cluster failed for a reason that stands in its own log",
    "postprocess.nan": "the network's numbers are broken; only other weights or images help",
    "infer.not_finite": "the network's numbers are broken; only other weights or images help",
    "predict.not_finite": "the network's numbers are broken; only other weights or images help",
    "weights.not_finite": "training diverged; only another training makes other weights",
    "train.not_finite": "training diverged; which learning rate holds is known after trying",
    "train.process_died": "the machine killed a process; the same command only goes on from there",
    "sweep.store_driver": "a package has to be installed, which changes the environment",
    "loggers.missing": "a package has to be installed, which changes the environment",
    "debug.not_learned": "which learning rate or loss learns a pair is known after trying",
    "onnx.missing": "a package has to be installed, which changes the environment",
    "onnx.differs": "versions of three packages that agree are known after trying",
    "simulate.lesion_prior": "a public collection has to be downloaded first",
    "track.store_unavailable": "a server of somebody has to be started again",
    "weights.format": "a newer version of the package has to be installed",
    "{step}.killed": "the machine is out of memory for this subject",
    "{step}.failed": "an error of the program that nobody foresaw; it has to be reported",
}
"""What only a person, another machine or another training can mend."""

"""Submission of commands as jobs of a cluster, with arrays of jobs and requeueing."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.config.preset_files import preset_file, preset_files, read_yaml
from msseg_lightning.run.shard import Shard

if TYPE_CHECKING:
    import submitit

log = logging.getLogger(__name__)

PARALLEL_COMMANDS = ("simulate", "prepare", "predict", "evaluate")
"""Commands over subjects, of which each job of an array processes a part."""

LAUNCHABLE_COMMANDS = (*PARALLEL_COMMANDS, "train", "sweep", "benchmark")

SIGNAL = "USR1"
"""Signal that SLURM sends to a job ``signal_delay_s`` before it ends the job."""

SIGNAL_DELAY_S = 30
"""Delay of the signal for submitit's jobs on this machine."""

OWN_SETTINGS = ("cluster", "folder", "array", "wait", "max_num_timeout")
COMMON_SETTINGS = (
    "timeout_min",
    "mem_gb",
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
)
"""Settings that submitit has for every cluster; the others are those of SLURM."""


def launch(command: str, words: Sequence[str]) -> str:
    """Submit a command as jobs according to ``launcher=NAME`` and ``launcher.KEY=VALUE``.

    Args:
        command: name of the command.
        words: its arguments, including those of the launcher.

    Returns:
        Text for the user.

    Raises:
        MssegError: a setting is wrong, the command cannot be a job, or there is no SLURM (exit 2);
            a job failed while waiting for it (exit 9).
    """
    own = [word for word in words if word.startswith(("launcher=", "launcher."))]
    rest = [word for word in words if word not in own]
    if command not in LAUNCHABLE_COMMANDS:
        raise _wrong("launcher", f"msseg {command}", f"msseg {', '.join(LAUNCHABLE_COMMANDS)}")
    launcher = read_launcher(own)
    if command in ("train", "sweep", "prepare"):
        launcher = _for_hardware(launcher, command, rest)
    jobs = submit(launcher, commands(command, rest, launcher["array"]))
    names = ", ".join(str(job.job_id) for job in jobs)
    if not launcher["wait"]:
        return f"submitted: {names}\nlogs in {launcher['folder']}; the same command continues\n"
    failed = [str(job.job_id) for job in jobs if job.exception() is not None]
    if failed:
        raise MssegError(
            Problem(
                "launch.failed",
                f"{len(failed)} of {len(jobs)} jobs failed",
                file=launcher["folder"],
                found=", ".join(failed),
                remedy="read their logs there; the same command completes what is missing",
                exit_code=ExitCode.PARTIAL,
            )
        )
    return "".join(job.stdout() or "" for job in jobs[-1:]) + f"finished: {names}\n"


def read_launcher(words: Sequence[str]) -> dict[str, Any]:
    """Settings of a file of ``conf/launcher`` with changed values.

    Raises:
        MssegError: no such file or setting, or an invalid number of jobs (exit 2).
    """
    given = dict(word.partition("=")[::2] for word in words)
    name = given.pop("launcher", "")
    file = preset_file("launcher", name)
    if file is None:
        raise _wrong("launcher", name, f"{', '.join(sorted(preset_files('launcher')))}, or a file")
    launcher = read_yaml(file)
    for word, text in given.items():
        key = word.removeprefix("launcher.")
        if key not in launcher:
            raise _wrong(word, text, ", ".join(launcher))
        launcher[key] = yaml.safe_load(text)
    if not isinstance(launcher["array"], int) or launcher["array"] < 1:
        raise _wrong("launcher.array", str(launcher["array"]), "1 or more")
    return launcher


def commands(command: str, words: Sequence[str], count: int) -> list[Command]:
    """Commands of one job, or of an array: parts of the subjects, or equal workers of a sweep."""
    if command == "evaluate" and count > 1 and "--cases" not in words:
        raise _wrong("--cases", "nothing", "--cases FOLDER, which collects the parts")
    if command in PARALLEL_COMMANDS and count > 1:
        parts = [Shard(number, count) for number in range(1, count + 1)]
        return [Command((command, *words, "--shard", str(part))) for part in parts]
    if command == "train" and count > 1:
        raise _wrong("launcher.array", str(count), "1: one training is one job")
    return [Command((command, *words)) for _ in range(count)]


def submit(launcher: dict[str, Any], jobs: Sequence[Command]) -> list[submitit.Job[int]]:
    """Submit commands to the cluster, several as one array.

    Raises:
        MssegError: submitit is not installed, or there is no such cluster (exit 2).
    """
    executor = _executor(launcher)
    executor.update_parameters(name=f"msseg-{jobs[0].words[0]}")
    grace_period_s = 0.8 * launcher.get("signal_delay_s", SIGNAL_DELAY_S)
    with executor.batch():
        return [
            executor.submit(dataclasses.replace(job, grace_period_s=grace_period_s)) for job in jobs
        ]


def _executor(launcher: dict[str, Any]) -> submitit.AutoExecutor:
    # submitit reads it when it is imported, here and in the job
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = SIGNAL
    try:
        import submitit
    except ImportError as error:
        raise _wrong("launcher", "no submitit", "pip install 'msseg-lightning[cluster]'") from error

    cluster = launcher["cluster"]
    folder = Path(launcher["folder"]).absolute()  # jobs may start in another folder
    try:
        executor = submitit.AutoExecutor(
            folder / "%j",
            cluster=cluster,
            **{f"{cluster}_max_num_timeout": launcher["max_num_timeout"]},
        )
        executor.update_parameters(**_parameters(launcher))
    except RuntimeError as error:
        raise _wrong("launcher", str(error), "a machine with sbatch and srun") from error
    return executor


def _parameters(launcher: dict[str, Any]) -> dict[str, Any]:
    """Settings with the names of submitit."""
    given = {key: value for key, value in launcher.items() if value not in (None, [], {})}
    cluster = given["cluster"]
    settings = {
        key if key in COMMON_SETTINGS else f"{cluster}_{key}": value
        for key, value in given.items()
        if key not in OWN_SETTINGS
    }
    if cluster == "slurm":
        settings["slurm_setup"] = [
            f"export SUBMITIT_PREEMPT_SIGNAL={SIGNAL}",
            *given.get("setup", []),
        ]
        settings["slurm_additional_parameters"] = {
            # requeued also after a failure of the node; the signal does not depend on submitit
            "requeue": True,
            "signal": f"{SIGNAL}@{given['signal_delay_s']}",
            **given.get("additional_parameters", {}),
        }
    return settings


def _for_hardware(launcher: dict[str, Any], command: str, words: Sequence[str]) -> dict[str, Any]:
    """Settings completed from the experiment, which is composed here to find errors early."""
    from msseg_lightning.run.config.compose import compose_config
    from msseg_lightning.run.train.folds_and_seeds import is_multirun

    settings = [word for word in words if "=" in word and not word.startswith(("-", "search"))]
    if command == "sweep" or is_multirun(settings) or launcher["cluster"] != "slurm":
        return launcher
    experiment = next(word for word in words if "=" not in word and not word.startswith("-"))
    trainer = compose_config(settings, experiment)["trainer"]
    devices, nodes = trainer["devices"], trainer["num_nodes"]
    if command != "train" or not isinstance(devices, int) or (devices, nodes) == (1, 1):
        return launcher
    # on one machine a training starts its own processes; on several srun starts them
    derived = {"nodes": nodes, "tasks_per_node": devices if nodes > 1 else 1}
    if trainer["accelerator"] != "cpu":
        derived["gpus_per_node"] = devices
    return {
        **launcher,
        **{key: value for key, value in derived.items() if launcher.get(key) is None},
    }


@dataclasses.dataclass
class Command:
    """A job that runs one ``msseg`` command in a process of its own.

    The process has its own main thread, which Lightning and signal handlers need. At the end of the
    job's time the process is signalled to save and to end, and the job is requeued; every command
    continues where it stopped.

    Args:
        words: arguments of the command line, without ``msseg``.
        grace_period_s: time that a stopping process may take, less than that of the cluster.
    """

    words: tuple[str, ...]
    grace_period_s: float = 75.0

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the command.

        Raises:
            RuntimeError: it ended with an error; the job counts as failed.
        """
        log.info("msseg %s", shlex.join(self.words))
        process = subprocess.Popen(
            [sys.executable, "-m", "msseg_lightning", *self.words], preexec_fn=_ignore_signal
        )
        # waits in a thread, since the signal handler in this one waits for the same process
        with ThreadPoolExecutor(1) as thread:
            self._end = thread.submit(process.wait)
            self._process = process
            code = self._end.result()
        if code:
            raise RuntimeError(f"msseg {shlex.join(self.words)} ended with {code}")
        return code

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """The job to requeue; submitit calls this before the job is ended."""
        from submitit.helpers import DelayedSubmission

        # a training handles this signal, also twice, if SLURM has sent it already
        kind = SIGNAL if self.words[0] in ("train", "sweep") else "TERM"
        if self._process is not None:
            self._process.send_signal(signal.Signals[f"SIG{kind}"])
            try:
                self._end.result(self.grace_period_s)
            except TimeoutError:
                log.warning("the process did not end in time; its last checkpoint is continued")
        return DelayedSubmission(Command(self.words, self.grace_period_s))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.words, self.grace_period_s)


def _ignore_signal() -> None:
    """Ignore the signal of SLURM, which is sent to all processes of a job and ends most of them."""
    signal.signal(signal.Signals[f"SIG{SIGNAL}"], signal.SIG_IGN)


def _wrong(field: str, found: str, expected: str) -> MssegError:
    return MssegError(
        Problem(
            "launch.setting",
            "the command cannot be launched like this",
            field=field,
            found=found,
            expected=expected,
            remedy="leave launcher= out to run it here; docs/scaling.md lists its settings",
            exit_code=ExitCode.CONFIG,
        )
    )

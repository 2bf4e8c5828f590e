"""Which systems can say how sure they are: those whose answer combines several."""

from __future__ import annotations

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.assemble.system import number_of_maps
from msseg_lightning.run.config.compose import Config, compose_config, experiment_names


def systems_with_several() -> list[str]:
    """Experiments whose prediction at paper size combines members, views, flips or passes."""
    return [
        name
        for name in experiment_names()
        if number_of_maps(compose_config(["read.root=."], name)) > 1
    ]


def refuse_one_answer(config: Config) -> None:
    """Check that a system gives an uncertainty map.

    Raises:
        MssegError: its prediction is a single answer (exit 2).
    """
    if number_of_maps(config) > 1:
        return
    raise MssegError(
        Problem(
            "predict.one_answer",
            f"{config['name']} gives a single answer for a pair, which says nothing of how "
            "sure it is",
            field="--uncertainty",
            found="one answer",
            expected="several members, views, flips or passes: "
            + ", ".join(systems_with_several()),
            remedy="leave --uncertainty out, or name a trained run of one of these systems",
            exit_code=ExitCode.CONFIG,
        )
    )

"""Which systems can say how sure they are: those whose answer combines several."""

from __future__ import annotations

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.assemble.system import number_of_maps
from msseg_lightning.run.config.compose import Config


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
            expected="several members, views, flips or passes",
            remedy="leave --uncertainty out, or name a run of a system with several answers, such "
            "as segresnet_ensemble or softseg_attention_mc_dropout",
            exit_code=ExitCode.CONFIG,
        )
    )

"""Check that a system can give an uncertainty map."""

from __future__ import annotations

from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.run.assemble.system import number_of_maps
from msseg_lightning.run.config.compose import Config


def require_uncertainty(config: Config) -> None:
    """Check that a system combines several outputs, from which an uncertainty map is computed.

    Raises:
        MssegError: it has a single output (exit 2).
    """
    if number_of_maps(config) > 1:
        return
    raise MssegError(
        Problem(
            "predict.one_answer",
            f"{config['name']} has a single output, from which no uncertainty map can be computed",
            field="--uncertainty",
            found="one output",
            expected="several members, views, flips or passes",
            remedy="leave --uncertainty out, or name a run of a system with several outputs, such "
            "as segresnet_ensemble or softseg_attention_mc_dropout",
            exit_code=ExitCode.CONFIG,
        )
    )

"""What a configuration may build and look up: the fence around text that another may have written.

A run folder, a model or a preset is data, and Hydra would turn data into calls. So before anything
is built every class is held against an allow list and every ``${...}`` against what it may name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msseg_lightning.core.problem import ExitCode, MssegError, Problem

FOREIGN_TARGETS = frozenset(
    {
        "torch.optim.Adam",
        "torch.optim.AdamW",
        "torch.optim.SGD",
        "torch.optim.RMSprop",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        "torch.optim.lr_scheduler.ConstantLR",
        "torch.optim.lr_scheduler.ExponentialLR",
        "torch.optim.lr_scheduler.LinearLR",
        "torch.optim.lr_scheduler.PolynomialLR",
        "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "torch.optim.lr_scheduler.StepLR",
        "monai.networks.nets.SegResNet",
        "monai.networks.nets.DynUNet",
        "monai.networks.nets.UNet",
        "monai.networks.nets.AttentionUnet",
        "monai.losses.DiceLoss",
        "monai.losses.DiceCELoss",
        "monai.losses.DiceFocalLoss",
        "monai.losses.FocalLoss",
        "monai.losses.TverskyLoss",
        "monai.transforms.RandSimulateLowResolutiond",
    }
)
"""Classes outside this package that a configuration may build. A block list is not a fence."""

OWN_STEPS = (
    "simulate",
    "read",
    "preprocess",
    "sample",
    "augment",
    "network",
    "loss",
    "train",
    "infer",
    "postprocess",
    "evaluate",
    "track",
    "method",
)


def refuse_targets(node: Any, place: str = "") -> None:
    """Check every ``_target_`` at every depth before anything is built.

    Raises:
        MssegError: one problem per target that is not on the allow list (exit 6).
    """
    problems = [
        Problem(
            "config.target",
            "this class may not be built from a configuration",
            field=where,
            found=str(target),
            expected="a class of msseg_lightning or one on the allow list",
            remedy="leave this setting out; `msseg show EXPERIMENT` prints the class",
            exit_code=ExitCode.SECURITY,
        )
        for where, target in nodes(node, place)
        if where.rpartition(".")[2] == "_target_" and not _allowed(target)
    ]
    if problems:
        raise MssegError(problems)


def _allowed(target: object) -> bool:
    if not isinstance(target, str):
        return False
    if target in FOREIGN_TARGETS:
        return True
    parts = target.split(".")
    return (
        len(parts) >= 4
        and parts[0] == "msseg_lightning"
        and parts[1] in OWN_STEPS
        and parts[-1][:1].isupper()  # classes only: no function of ours is reachable by name
    )


def refuse_interpolations(node: Any, place: str = "") -> None:
    """Check that nothing would be looked up, or called, when a stored node is built.

    What ``compose_config`` returns is resolved; what Hydra still finds as ``${...}`` in it, it
    would resolve, and a resolver may read the environment or build any class.

    Raises:
        MssegError: one problem per text that holds an interpolation (exit 6).
    """
    problems = [
        Problem(
            "config.interpolation",
            "a stored configuration holds values only",
            field=where,
            found=value[:200],
            expected="the value itself",
            remedy="do not use this configuration, or write the value in its place",
            exit_code=ExitCode.SECURITY,
        )
        for where, value in nodes(node, place)
        if isinstance(value, str) and "${" in value
    ]
    if problems:
        raise MssegError(problems)


def nodes(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted place and value of a node and of everything inside it."""
    yield place, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from nodes(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list | tuple):  # YAML's !!pairs and !!omap are tuples
        for index, value in enumerate(node):
            yield from nodes(value, f"{place}[{index}]")


def refuse_resolvers(texts: Iterable[tuple[str, str]]) -> None:
    """Check texts, each after the place where it stands, for more than ``${name.of.a.setting}``.

    Raises:
        MssegError: one problem per text that calls a resolver (exit 6).
    """
    problems = [
        Problem(
            "config.resolver",
            "a configuration may not read the environment or call a resolver",
            field=where,
            found=call,
            remedy="write the value itself",
            exit_code=ExitCode.SECURITY,
        )
        for where, text in texts
        if (call := _resolver_call(text))
    ]
    if problems:
        raise MssegError(problems)


def _resolver_call(text: str) -> str:
    """The first interpolation that is no setting's name; empty without any.

    Names may be made of names, ``${a.${b}}``, so what is harmless is taken out from inside.
    """
    while (left := re.sub(r"\$\{[^{}:]*\}", "", text)) != text:
        text = left
    found = re.search(r"\$\{[^}]*\}?", text)
    return found.group(0) if found else ""


def yaml_texts(*folders: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every YAML file below some folders, for ``refuse_resolvers``."""
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            yield path.name, path.read_text(encoding="utf-8")

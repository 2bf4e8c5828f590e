"""The trained system that comes with this package."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from msseg_lightning.core.files import read_record

MODELS = Path(__file__).parents[2] / "models"
NAME = "find_then_judge"


def packaged_model() -> Path:
    """The zip file of the trained system, as ``msseg export`` writes it."""
    return MODELS / f"{NAME}.zip"


@functools.cache
def packaged_record() -> dict[str, Any]:
    """What is recorded of it: ``version``, ``weights_sha256``, how it was trained, its figures."""
    return read_record(MODELS / f"{NAME}.json", {"version": str, "weights_sha256": str})


def packaged_name() -> str:
    """Its name and version."""
    return f"{NAME} {packaged_record()['version']}"


def introduction() -> str:
    """What a user is told who names no model."""
    return (
        f"no model was named: {packaged_name()}, the one in this package "
        f"({packaged_record()['trained_on']}; {packaged_record()['held_out']})"
    )


def name_if_packaged(weights_sha256: str | None) -> str | None:
    """The name of the packaged system if these are its weights."""
    if not packaged_model().is_file():  # a checkout in which it is being made
        return None
    return packaged_name() if weights_sha256 == packaged_record()["weights_sha256"] else None

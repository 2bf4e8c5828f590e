"""New multiple-sclerosis lesions between two FLAIR scans: train, track and compare systems.

The names of ``__all__`` are for notebooks; each is imported at its first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NOTEBOOK = "msseg_lightning.run.predict.notebook"
_PLACES = {
    "data_module": _NOTEBOOK,
    "load_pairs": _NOTEBOOK,
    "load_system": _NOTEBOOK,
    "predict": _NOTEBOOK,
    "score": _NOTEBOOK,
    "split_pairs": _NOTEBOOK,
    "LongitudinalDataModule": "msseg_lightning.train.datamodule",
    "SoftDice": "msseg_lightning.loss.overlap",
    "Task": "msseg_lightning.train.task",
    "WholeVolumeValidator": "msseg_lightning.train.task",
}

__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})

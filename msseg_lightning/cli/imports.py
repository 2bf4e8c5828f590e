"""Faster import of large libraries, without parts that are not used here."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from importlib import metadata


def import_lightning() -> None:
    """Import Lightning without matplotlib and scipy, and nibabel without pydicom.

    torchmetrics, which Lightning needs, imports matplotlib for its plots and scipy.signal for audio
    wherever it finds them, and nibabel imports pydicom for DICOM headers inside NIfTI files: 2 of
    the 8 CPU seconds before a training step. For this process those parts stay absent, as these
    libraries allow; matplotlib and scipy themselves are imported later where they are needed.
    """
    import_without("lightning.pytorch", ("matplotlib", "scipy"))
    import_without("nibabel", ("pydicom",))


def import_without(module: str, packages: tuple[str, ...]) -> None:
    """Import a module with packages hidden; imports it again with them if it needs them."""
    try:
        with hidden(*packages):
            importlib.import_module(module)
    except ImportError:
        importlib.import_module(module)


@contextlib.contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Context in which packages that are not imported yet seem not to be installed."""

    def version(distribution_name: str) -> str:
        if distribution_name in absent:
            raise metadata.PackageNotFoundError(distribution_name)
        return metadata.version(distribution_name)

    absent = [name for name in packages if name not in sys.modules]
    try:  # how torchmetrics looks for a package
        import lightning_utilities.core.imports as asked
    except ImportError:
        yield
        return
    known = getattr(asked, "_version", None)
    if known is not metadata.version:  # another release, which may ask in another way
        yield
        return
    asked._version = version
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        asked._version = known
        for name in absent:
            del sys.modules[name]

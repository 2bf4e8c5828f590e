"""Software and hardware that a run used, without paths, user names or addresses."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "msseg-lightning",
    "torch",
    "lightning",
    "monai",
    "torchio",
    "nibabel",
    "nilearn",
    "SimpleITK",
    "numpy",
    "scipy",
    "scikit-image",
    "connected-components-3d",
    "numba",
    "isal",
    "deflate",
    "hydra-core",
    "omegaconf",
    "mlflow",
    "optuna",
    "safetensors",
)
# Instruction sets that change the order of floating-point sums, hence the last bits of a result.
CPU_FLAGS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")


def environment_record(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Versions, commit, processor and command line as a JSON-safe record.

    Args:
        argv: command line; ``sys.argv`` if not given. Paths are cut to their last part, addresses
            of stores left out.
    """
    return {
        "git": git_record(Path(__file__).resolve().parent),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_flags": cpu_flags(),
        "cpu_count": os.cpu_count(),
        "packages": package_versions(),
        "torch_threads": _torch_threads(),
        "gpus": _gpus(),
        "command": [shorten(part) for part in (sys.argv if argv is None else argv)],
    }


def git_record(folder: Path) -> dict[str, Any]:
    """Commit and whether tracked files differ from it; None outside a checkout (a wheel)."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # A wheel installed somewhere below another project's checkout is not that project's commit.
    inside = git("ls-files", "--error-unmatch", "environment.py") is not None
    commit = git("rev-parse", "HEAD") if inside else None
    changed = git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Installed versions, without importing anything."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_flags() -> list[str]:
    """Instruction sets of the processor that matter for numbers; empty where unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return []
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            present = set(line.partition(":")[2].split())
            return [flag for flag in CPU_FLAGS if flag in present]
    return []


def shorten(part: str) -> str:
    """A command line argument without folders and store addresses.

    ``read.root=/a/b/c`` becomes ``read.root=.../c``, inside braces too; of ``track.uri=...`` and of
    whatever holds an address with ``://`` the name of the setting is left.
    """
    name, equals, value = part.partition("=")
    if not equals or "/" in name.strip("+~"):
        name, value = "", part
    tracks = re.match(r"[+~]*track\b", name) and not re.fullmatch(r"track=\w*", part)
    if tracks or "://" in value:
        return f"{name}=..." if name else "..."
    inner = r"[^{}\[\],]+" if value.startswith(("{", "[")) else r"(?s).+"
    shortened = re.sub(inner, lambda piece: _last_name(piece.group()), value)
    return f"{name}={shortened}" if name else shortened


def _last_name(text: str) -> str:
    """A path reduced to its last part: ``/a/b`` to ``.../b``, ``key: /a/b`` to ``key: .../b``."""
    lead = re.match(r"\s*([\w.]+\s*:)?\s*", text)
    assert lead is not None
    place = text[lead.end() :]
    return f"{lead.group()}.../{Path(place).name}" if "/" in place else text


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")  # not imported only for this record
    return None if torch is None else int(torch.get_num_threads())


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]

"""Networks of a trained system as ONNX, each compared with ONNX Runtime on a whole volume."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msseg_lightning import __version__
from msseg_lightning.core.files import atomic_write, sha256_file, write_record
from msseg_lightning.core.outputs import is_json_with, refuse_overwrites
from msseg_lightning.core.problem import ExitCode, MssegError, Problem
from msseg_lightning.infer.sliding_window import not_normalised
from msseg_lightning.method.ensemble import EnsembleMethod
from msseg_lightning.method.network_method import NetworkMethod
from msseg_lightning.run.predict.trained import load_method, weights_hash

TOLERANCE = 1e-4
"""Largest difference of a probability between PyTorch and ONNX Runtime."""
RECORD = "onnx.json"
DEFAULT_EDGE = 64
"""Edge of the volume of comparison for rules that take slices whole."""


def export_networks(model: Path, folder: Path) -> dict[str, Any]:
    """Write every network of a system as ``<name>.onnx``, and what surrounds them as ``onnx.json``.

    The network maps images (B, C, ...) to logits; batch and edges may have any size that the
    network takes. What is done before and after, such as preprocessing, windows and thresholds, is
    not part of the files.

    Args:
        model: model folder, from ``find_model``.
        folder: of the files; only those of an earlier export are overwritten.

    Returns:
        Content of ``onnx.json``, with the largest difference of each network's map.

    Raises:
        MssegError: onnx or onnxruntime is missing (exit 5), the system is more than its networks
            (exit 2), or a map differs by more than ``TOLERANCE`` (exit 7).
    """
    _require_packages()
    method, config = load_method(model)
    networks = dict(_networks(method, str(config["name"]), model))
    files = {name: folder / f"{name}.onnx" for name in networks}
    record = folder / RECORD
    own = is_json_with("written_by", "networks")
    known = own(record) if record.is_file() else False
    outputs = [(file, lambda _: known) for file in files.values()]
    refuse_overwrites([*outputs, (record, own)], (), "--onnx")
    folder.mkdir(parents=True, exist_ok=True)
    facts = {}
    for name, one in networks.items():
        difference = write_network(one, files[name])
        facts[name] = {
            "file": files[name].name,
            "sha256": sha256_file(files[name]),
            "images": list(one.channels.images),
            "largest_difference": difference,
        }
    content = {
        "written_by": "msseg export",
        "system": config["name"],
        "version": __version__,
        "model_sha256": weights_hash(model),
        "input": "images (batch, channels, edges), prepared as the settings below say",
        "output": "logits (batch, outputs, edges); the first output is that of new lesions",
        "preprocess": config.get("preprocess"),
        "infer": config.get("infer"),
        "postprocess": config.get("postprocess"),
        "networks": facts,
        "use": "research use only; not a medical device",
    }
    write_record(record, content)
    return content


def _networks(method: Any, name: str, model: Path) -> Iterator[tuple[str, NetworkMethod]]:
    if type(method) is NetworkMethod and method.infer is not None and not method.derived:
        yield name, method
        return
    if not isinstance(method, EnsembleMethod):
        raise _refused(name, "one network, or an ensemble of such")
    for member in method.names:
        one = method.members[member.rpartition("-fold")[0]]()
        one.load(model / "members" / member)
        yield from _networks(one, member, model)


def write_network(method: NetworkMethod, file: Path) -> float:
    """Write a network as ONNX and compare its map with that of ONNX Runtime.

    Returns:
        The largest difference of a probability, over a volume of noise.

    Raises:
        MssegError: the network needs more than images (exit 2), or the maps differ (exit 7).
    """
    network, infer = method.task.network.cpu(), _without_draws(method.infer)
    if hasattr(network, "on_grid"):
        raise _refused("it is told the size of voxels", "a network of images alone")
    images, inside = _volume(infer, len(method.channels.images))
    seen: list[Tensor] = []
    handle = network.register_forward_pre_hook(lambda _, given: seen.append(given))
    with contextlib.closing(_Removed(handle)):
        expected = infer(network, images, inside)
    if len(seen[0]) != 1:
        raise _refused(f"it takes {len(seen[0])} inputs", "a network of images alone")
    example = seen[0][0].detach().contiguous()
    with atomic_write(file) as temporary:
        _write(network, example, temporary, getattr(infer, "activation", ""))
        found = infer(OnnxNetwork(temporary, network), images, inside)
        logits = getattr(infer, "level", "logit") == "logit"
        maps = [one.sigmoid() if logits else one for one in (expected, found)]
        difference = float((maps[0] - maps[1]).abs().max())
        if not difference <= TOLERANCE:
            raise MssegError(
                Problem(
                    "onnx.differs",
                    "the map of ONNX Runtime differs from that of PyTorch; the file is not kept",
                    file=file,
                    found=f"{difference:.2g}",
                    expected=f"at most {TOLERANCE:.0e}",
                    remedy="use the system as it is (`msseg export RUN --zip FILE.zip`), or other "
                    "versions of torch, onnx and onnxruntime",
                    exit_code=ExitCode.NUMERICAL,
                )
            )
    return difference


class OnnxNetwork(nn.Module):
    """Network whose output is computed by ONNX Runtime; inference rules take it as any other.

    Args:
        file: of ``write_network``.
        like: the network it stands for, whose ``divisor`` rules may ask for.
    """

    def __init__(self, file: Path, like: nn.Module | None = None) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        content = file.read_bytes()
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(content, options, providers=providers)
        if (divisor := getattr(like, "divisor", None)) is not None:
            self.divisor = divisor

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, ...) -> logits."""
        given = {"images": images.detach().cpu().contiguous().numpy()}
        return torch.from_numpy(self.session.run(["logits"], given)[0]).to(images.device)


class _Logits(nn.Module):
    """The first output of a network, which is what inference reads."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        output = self.network(images)
        return output if isinstance(output, Tensor) else output.logits


class _Removed:
    """A hook that ``contextlib.closing`` removes."""

    def __init__(self, handle: Any) -> None:
        self.close = handle.remove


def _write(network: nn.Module, example: Tensor, file: Path, activation: str) -> None:
    """The tracing exporter: it keeps all edges free and needs no package but onnx."""
    edges = {0: "batch", **{axis: f"edge{axis - 1}" for axis in range(2, example.ndim)}}
    training = network.training
    network.eval()
    plain = not_normalised(network) if activation == "volume_maximum" else contextlib.nullcontext()
    try:
        with plain, warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(network),
                (example,),
                str(file),
                dynamo=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": edges, "logits": edges},
            )
    finally:
        network.train(training)


def _without_draws(infer: Any) -> Any:
    """The rule itself; of passes with random dropout the plain one, which can be repeated."""
    return infer.for_validation if hasattr(infer, "passes") else infer


def _volume(infer: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Images (C, X, Y, Z) of noise and where the map is wanted: two windows, or some slices."""
    inner = getattr(infer, "window", infer)
    edges = [int(edge) for edge in getattr(inner, "size", None) or (DEFAULT_EDGE,)]
    x, y, z = edges if len(edges) == 3 else [min(edges)] * 3
    x = math.ceil(1.25 * x) if len(edges) == 3 else x
    images = torch.randn((channels, x, y, z), generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(images.shape[1:], dtype=torch.bool)
    inside[2:-2, 2:-2, 2:-2] = True
    return images, inside


def _refused(found: str, expected: str) -> MssegError:
    return MssegError(
        Problem(
            "onnx.system",
            "this system is more than networks of images, which alone cannot be used",
            field="--onnx",
            found=found,
            expected=expected,
            remedy="share it whole: `msseg export RUN --zip FILE.zip`",
            exit_code=ExitCode.CONFIG,
        )
    )


def _require_packages() -> None:
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MssegError(
            Problem(
                "onnx.missing",
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
                field="--onnx",
                remedy="pip install 'msseg-lightning[onnx]'",
                exit_code=ExitCode.ENVIRONMENT,
            )
        )

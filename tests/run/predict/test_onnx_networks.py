"""Networks as ONNX: the same map, and refused where the network alone is not the system."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.predict import onnx_networks
from msseg_lightning.run.predict.onnx_networks import OnnxNetwork, export_networks
from msseg_lightning.run.predict.trained import load_method
from tests.run.predict.test_model_zip import save

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")),
    reason="onnx and onnxruntime are not installed: pip install 'msseg-lightning[onnx]'",
)


@needs_onnx
@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        ("pre_unet", ()),  # deep supervision: of several outputs the first counts
        ("subtraction_unet_2d", ()),  # slices
        ("softseg_attention_mc_dropout", ("network.width=2", "infer.window.size=16")),
        ("pre_unet", ("ensemble={folds: 2, level: probability, rule: mean}",)),
    ],
)
def test_onnx_runtime_gives_the_same_map(experiment, words, tmp_path, capsys):
    model = save(tmp_path / "model", experiment, *words)
    assert main(["export", str(model), "--onnx", str(tmp_path / "onnx")]) == ExitCode.OK
    said = capsys.readouterr().out
    record = json.loads((tmp_path / "onnx" / "onnx.json").read_text())
    assert record["networks"] and record["system"] == experiment
    for facts in record["networks"].values():
        assert facts["largest_difference"] <= 1e-4 and facts["file"] in said
        assert (tmp_path / "onnx" / facts["file"]).is_file()
    assert main(["export", str(model), "--onnx", str(tmp_path / "onnx")]) == ExitCode.OK  # again


@needs_onnx
def test_batches_and_volumes_of_other_sizes_are_taken(tmp_path):
    model = save(tmp_path / "model", "pre_unet")
    export_networks(model, tmp_path / "onnx")
    network = load_method(model)[0].task.network.eval()
    runtime = OnnxNetwork(tmp_path / "onnx" / "pre_unet.onnx")
    images = torch.randn((3, 2, 24, 16, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(runtime(images), network(images), atol=1e-4, rtol=1e-4)


@needs_onnx
def test_a_map_that_differs_is_refused_and_no_file_is_kept(tmp_path, monkeypatch):
    model = save(tmp_path / "model", "pre_unet")
    forward = OnnxNetwork.forward
    monkeypatch.setattr(OnnxNetwork, "forward", lambda self, images: forward(self, images) + 0.01)
    with pytest.raises(MssegError, match=r"onnx\.differs") as caught:
        export_networks(model, tmp_path / "onnx")
    assert caught.value.exit_code == ExitCode.NUMERICAL
    assert not list((tmp_path / "onnx").iterdir())


@needs_onnx
def test_what_is_more_than_networks_is_refused(tmp_path):
    model = save(tmp_path / "model", "bsi_subtraction")
    with pytest.raises(MssegError, match=r"onnx\.system.*--zip"):
        export_networks(model, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_without_the_packages_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_networks.importlib.util, "find_spec", lambda name: None)
    model = save(tmp_path / "model", "bsi_subtraction")
    assert main(["export", str(model), "--onnx", str(tmp_path / "x")]) == ExitCode.ENVIRONMENT
    said = capsys.readouterr().err
    assert "onnx and onnxruntime are not installed" in said
    assert "pip install 'msseg-lightning[onnx]'" in said

"""C, K and R of the catalogue: what no test of a module shows, by the real command.

Each row ends with its exit code and names field, found value and remedy, as text and as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import struct

import pytest
import torch

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import MssegError
from msseg_lightning.network.weights import CARD_NAME, WEIGHTS_NAME, load_weights, save_weights
from tests.conftest import tiny_words

pytestmark = pytest.mark.badinput


@dataclasses.dataclass(frozen=True)
class Row:
    """Words of a command that are refused; ``field`` and ``expected`` are parts of what is said."""

    name: str
    words: tuple[str, ...]
    exit_code: int
    field: str
    expected: str = ""
    begun: bool = False  # it is seen by the first batch only, or depends on the machine


ROWS = [
    Row("C01", ("learing_rate=1",), 2, "learing_rate"),
    Row("C01-nested", ("train.optimizer.lrr=1",), 2, "train.optimizer.lrr", "lr"),
    Row("C02", ("train.steps=many",), 2, "train.steps", "int"),
    Row("C03-zero", ("sample.size=[0,16,16]",), 2, "sample.size"),
    Row("C03-negative", ("sample.size=[16,-16,16]",), 2, "sample.size"),
    Row("C04", ("sample.size=[15,16,16]",), 2, "sample.size", "16x16x16", begun=True),
    Row("C06-negative", ("train.optimizer.lr=-1",), 2, "train.optimizer"),
    Row("C06-nan", ("train.optimizer.lr=nan",), 2, "train.optimizer.lr"),
    Row("C06-infinite", ("train.optimizer.lr=inf",), 2, "train.optimizer.lr"),
    Row("C07", ("train.batch_size=0",), 2, "train.batch_size"),
    Row("C07-absurd", ("train.batch_size=100000000",), 5, "train.batch_size", "GB", begun=True),
    Row("C05-absurd", ("sample.size=[4096,4096,4096]",), 5, "sample.size", "GB", begun=True),
    Row("C08", ("infer.overlap=1",), 2, "overlap"),
    Row("C08-more", ("infer.overlap=1.5",), 2, "overlap"),
    Row("C09", ("postprocess.rules.threshold.value=2",), 2, "value"),
    Row("C11", ("network._target_=os.system",), 6, "network._target_"),
    Row("C12", ("loss._target_=torch.load",), 6, "loss._target_"),
    Row("C13", ("+augment.other={_target_: os.system}",), 6, "augment.other"),
    Row("C14", ("card.idea='${oc.env:HOME}'",), 6, "card.idea"),
    Row("C15", ("card.idea='${card.paper}'", "card.paper='${card.idea}'"), 2, ""),
    Row("C18", ("data.reading.label_values={255: 1, 255: 0}",), 2, "label_values"),
    Row("C20", ("trainer.accelerator=gpu", "trainer.devices=4"), 5, "trainer"),
    Row("C20-cpu", ("trainer.devices=9999",), 5, "trainer"),
    Row("C22", ("seed=4294967296",), 2, "seed", "4294967295"),
    Row("group-of-none", ("loss=[]",), 2, "loss"),
    Row("group-null", ("network=null",), 2, "network"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row, coarse_cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if torch.cuda.is_available() and row.name == "C20":
        pytest.skip("this machine has GPUs")
    command = ["train", "pre_unet", *tiny_words(coarse_cohort), "track=off", *row.words]
    assert main(command) == row.exit_code
    text = capsys.readouterr().err
    assert " -> " in text and "Traceback" not in text
    monkeypatch.setenv("MSSEG_PROBLEMS", "json")
    assert main(command) == row.exit_code
    lines = capsys.readouterr().err.splitlines()
    problems = [json.loads(line) for line in lines if line.startswith("{")]
    assert problems
    for problem in problems:
        assert row.field in problem["field"]
        assert row.expected in problem["expected"]
        assert problem["remedy"] and problem["exit_code"] == row.exit_code
        assert f"[{problem['code']}]" in text
    if not row.begun:
        assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_an_experiment_that_is_not_there_names_the_nearest(capsys):  # C10
    assert main(["train", "pre_unett", "read.root=x"]) == 2
    assert "pre_unet" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["long-header", "overlapping", "beyond", "no-json", "empty"])
def test_hostile_weights_are_refused_by_name(kind, tmp_path):  # K10
    network = torch.nn.Linear(3, 2)
    save_weights(network, tmp_path)
    header = {"weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    header["bias"] = {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]}
    if kind == "overlapping":
        header["bias"]["data_offsets"] = [20, 28]
    if kind == "beyond":
        header["bias"]["data_offsets"] = [24, 10**9]
    text = json.dumps(header).encode() if kind != "no-json" else b"{" * 64
    length = 200_000_000 if kind == "long-header" else len(text)
    content = struct.pack("<Q", length) + text + bytes(32)
    (tmp_path / WEIGHTS_NAME).write_bytes(b"" if kind == "empty" else content)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for card in (True, False):
        if not card:
            (tmp_path / CARD_NAME).unlink()
        with pytest.raises(MssegError) as caught:
            load_weights(network, tmp_path)
        assert caught.value.exit_code in (4, 6)
        assert caught.value.problems[0].file is not None and caught.value.problems[0].remedy
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())

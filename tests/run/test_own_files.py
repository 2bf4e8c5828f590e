"""No damage of a file of our own passes: it is refused by name, made again, or changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msseg_lightning.cli.main import main
from msseg_lightning.core.files import write_record
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, FOLLOWUP, LoadedSubject, LongitudinalSubject
from msseg_lightning.core.subject import Native as NativeGrid
from msseg_lightning.core.volume import Grid, Volume
from msseg_lightning.evaluate.score import ScoreOptions, score_case
from msseg_lightning.method.booster_files import load_texts, save_boosters
from msseg_lightning.method.staged import _key_of
from msseg_lightning.network.weights import load_weights, save_weights
from msseg_lightning.run.folder import RunFolder
from msseg_lightning.run.predict.scores import load_score, save_score, write_scores
from msseg_lightning.run.predict.trained import stored_config
from msseg_lightning.split.split import Split
from msseg_lightning.track.journal import Journal, Position, run_key
from msseg_lightning.train.checkpoint import AtomicCheckpointIO, read_checkpoint
from msseg_lightning.train.training import _finished
from tests.conftest import tiny_words

FLIPS = 60
ABSENT = "made again"
CONFIG = {"name": "toy", "overwrite": False, "seed": 3, "trainer": {"precision": "32-true"}}
TREE = """tree
num_class=1
num_tree_per_iteration=1
max_feature_idx=1
objective=binary sigmoid:1
feature_names=a b

Tree=0
num_leaves=2
num_cat=0
split_feature=1
threshold=0.25
decision_type=2
left_child=-1
right_child=-2
leaf_value=-0.125 0.5

end of trees
"""


def score():
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1:4, 1:4, 1:4] = 1
    return score_case(mask, mask, (1.0, 1.0, 2.0))


def network():
    torch.manual_seed(0)
    return torch.nn.Linear(5, 3)


def weights(folder):
    empty = torch.nn.Linear(5, 3)
    card = load_weights(empty, folder)
    return card["sha256"], [tensor.tolist() for tensor in empty.state_dict().values()]


def prepared(folder):
    data = np.random.default_rng(0).random((6, 7, 8)).astype(np.float32)
    affine = np.diag([-3.0, 1, 1, 1])
    volumes = {name: Volume(data, affine) for name in (BASELINE, FOLLOWUP)}
    subject = LongitudinalSubject("a", "a", {})
    native = NativeGrid(Grid((6, 7, 8), affine), b"header")
    PreparedSubject.write(LoadedSubject(subject, volumes, native), folder)


def read_prepared(folder):
    try:
        pair = PreparedSubject.open(folder)
        pair.verify()
    except MssegError:
        return ABSENT  # the cache builds an entry again that says this of itself
    facts = pair.grid.affine.tolist(), pair.to_native.tolist(), pair.layers, pair.native.header
    return facts, [pair.image(name).tolist() for name in pair.image_names]


def checkpoint(folder):
    state = {"state_dict": network().state_dict(), "global_step": 7, "callbacks": {"k": [0.5]}}
    AtomicCheckpointIO().save_checkpoint(state, folder / "last.ckpt")


def read_last(folder):
    state = read_checkpoint(folder / "last.ckpt")
    state["state_dict"] = {name: tensor.tolist() for name, tensor in state["state_dict"].items()}
    return dict(state)


def booster_record(folder):
    write_record(folder / "stages.json", {"key": "ab12", "stages": {"first": "cd34"}})


@dataclasses.dataclass(frozen=True)
class Own:
    """A kind of file: how it is made, how it is read, under which names it lies."""

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    names: tuple[str, ...]


SPLIT = Split(("003", "004"), ("002",), ("001",), "leave_one_out", 0, 0, "aa")
KINDS = {
    "run configuration": Own(
        lambda f: RunFolder(f).claim_config(CONFIG),
        lambda f: RunFolder(f).config(),
        ("config.yaml",),
    ),
    "model configuration": Own(
        lambda f: RunFolder(f).claim_config(CONFIG), stored_config, ("config.yaml",)
    ),
    "run record": Own(
        lambda f: RunFolder(f).update_record(status="finished", data_hash="0a1b", stages={}),
        lambda f: RunFolder(f).record(),
        ("run.json",),
    ),
    "split": Own(
        lambda f: RunFolder(f).claim_split(SPLIT), lambda f: RunFolder(f).split(), ("split.json",)
    ),
    "scores": Own(
        lambda f: write_scores(f, {"a": score()}, ScoreOptions(), {}),
        lambda f: RunFolder(f).scores(),
        ("scores.json",),
    ),
    "kept score": Own(
        lambda f: save_score(f / "a.json", score(), "made"),
        lambda f: load_score(f / "a.json", "made") or ABSENT,
        ("a.json",),
    ),
    "weights": Own(
        lambda f: save_weights(network(), f), weights, ("weights.safetensors", "card.json")
    ),
    "boosters": Own(
        lambda f: save_boosters([TREE], f, "toy", ("a", "b")),
        lambda f: load_texts(f, ("a", "b")),
        ("booster0.txt", "card.json"),
    ),
    "checkpoint": Own(checkpoint, read_last, ("last.ckpt",)),
    "end of a fit": Own(
        lambda f: write_record(f / "done.json", {"step": 9, "best_step": 5, "best_score": 0.25}),
        _finished,
        ("done.json",),
    ),
    "stages": Own(booster_record, lambda f: _key_of(f / "stages.json") or ABSENT, ("stages.json",)),
    "name of a tracked run": Own(run_key, run_key, ("key.json",)),
    "what the store has": Own(
        lambda f: Journal(f).confirm(Position("sqlite:///a", "0123", 4711)),
        lambda f: (lambda p: p if p.sent else ABSENT)(Journal(f).position()),
        ("sent.json",),
    ),
    "prepared pair": Own(prepared, read_prepared, ("meta.json", "pair.npy", "voxels_brain.npy")),
}


def flips(content):
    generator = np.random.default_rng(len(content))
    for bit in generator.choice(8 * len(content), FLIPS, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        yield bytes(damaged)


def other_contents(content):
    yield from (b"", content[:1], content[: len(content) // 2], content[:-1])
    yield from (b"[1]", b"3", b"null", b"{}", b"\x00" * len(content), b"[" * 3000, b"{a: " * 3000)


@pytest.mark.parametrize("damage", [flips, other_contents])
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, own in KINDS.items() for name in own.names]
)
def test_damage_is_refused_by_name_or_made_again_or_changes_nothing(kind, name, damage, tmp_path):
    own, file = KINDS[kind], tmp_path / name
    own.make(tmp_path)
    whole, content = own.read(tmp_path), file.read_bytes()
    assert whole != ABSENT
    refused = 0
    for damaged in damage(content):
        file.write_bytes(damaged)
        try:
            found = own.read(tmp_path)
        except MssegError as error:
            refused += 1
            (problem,) = error.problems
            assert name in str(problem.file) and problem.remedy
            # 6 where numbers are not those that a card was written for, and where a configuration
            # is nested without end or names another class: it is called an attack first
            suspicious = "hash" in problem.code or problem.code.startswith("config.")
            assert error.exit_code == 4 or (error.exit_code == 6 and suspicious)
        else:
            if found == ABSENT:
                refused += 1
            elif isinstance(whole, dict):
                assert {key: found[key] for key in whole} == whole
            else:
                assert found == whole
    assert refused > 0


def test_a_pipe_is_not_waited_for(tmp_path):
    folder = RunFolder(tmp_path)
    for name in ("run.json", "scores.json", "split.json"):
        os.mkfifo(tmp_path / name)
    for read in (folder.record, folder.scores, folder.split):
        with pytest.raises(MssegError, match="no regular file"):
            read()


def test_aliases_that_stand_for_more_than_can_be_gone_through_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    for text in ("\n".join(lines), "a: &a [*a]"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(MssegError) as caught:
            RunFolder(tmp_path).config()
        assert caught.value.exit_code == 6


@pytest.fixture(scope="module")
def coarse_run(coarse_cohort, tmp_path_factory):
    """A finished run on the coarse cohort, and the words that made it."""
    place = tmp_path_factory.mktemp("own")
    words = ["pre_unet", *tiny_words(coarse_cohort), "track=off", f"paths.runs={place / 'runs'}"]
    words.append(f"paths.cache={place / 'cache'}")
    assert main(["train", *words]) == 0
    (run,) = (place / "runs" / "pre_unet").iterdir()
    return run, words


def cases(run):
    return json.loads((run / "scores.json").read_text())["cases"]


def flip(file):
    """Change one digit in the middle: no word becomes another one."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    place = next(n for n in range(middle, len(content)) if content[n] in b"123456789")
    content[place] ^= 1 if content[place] != ord("1") else 2
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_the_remedy_followed_to_the_letter_ends_well(coarse_run, name, capsys):
    run, words = coarse_run
    before = cases(run)
    flip(run / name)
    assert main(["train", *words]) == 4
    said = capsys.readouterr().err
    assert name.rpartition("/")[2] in said
    if "overwrite=true" in said:
        assert main(["train", *words, "overwrite=true"]) == 0
    else:
        assert "delete it and give the `msseg train` command again" in " ".join(said.split())
        (run / name).unlink()
        assert main(["train", *words]) == 0
    assert cases(run) == before


@pytest.mark.parametrize("name", ["fit/done.json", "cache/meta.json"])
def test_what_can_be_made_again_is_made_again(coarse_run, name):
    run, words = coarse_run
    before = cases(run)
    file = run / name
    if name.startswith("cache"):
        file = sorted((run.parents[2] / "cache").rglob("meta.json"))[-1]
    flip(file)
    assert main(["train", *words]) == 0
    assert cases(run) == before

"""Boosters, weights, prepared pairs and arrays: what is sound in place of what is not."""

from __future__ import annotations

import json
import shutil

import lightgbm
import numpy as np
import torch

from msseg_lightning.core.files import write_record
from msseg_lightning.core.prepared import PreparedSubject
from msseg_lightning.core.subject import BASELINE
from msseg_lightning.core.volume import Volume
from msseg_lightning.evaluate.score import score_case
from msseg_lightning.method.booster_files import load_texts, plain_text, save_boosters
from msseg_lightning.network.weights import load_weights, save_weights
from msseg_lightning.run.assemble.system import build_method
from msseg_lightning.run.config.compose import compose_config
from tests.core import test_prepared
from tests.remedies.place import Place, case

FEATURES = ("a", "b", "c")


@case("booster.card", "booster.hash", "booster.malformed", "booster.missing")
def boosters(place: Place) -> None:
    data = np.random.default_rng(0).normal(size=(200, 3))
    rows = lightgbm.Dataset(data, data[:, 0] > 0.5, feature_name=list(FEATURES))
    settings = {"objective": "binary", "num_leaves": 3, "verbosity": -1}
    text = plain_text(lightgbm.train(settings, rows, num_boost_round=2).model_to_string())
    kept, folder = place.folder / "kept", place.folder / "model"
    save_boosters([text], kept, "bsi_lightgbm", FEATURES)

    def no_boosters() -> None:
        card = json.loads((folder / "card.json").read_text())
        write_record(folder / "card.json", {**card, "boosters": []})

    booster = folder / "booster0.txt"
    for code, damage, remedy in (
        ("booster.card", no_boosters, "copy the whole model folder again, or train again"),
        ("booster.missing", lambda: booster.unlink(), "copy the whole model folder again, or"),
        (
            "booster.hash",
            lambda: booster.write_text(text.replace("shrinkage=0.1", "shrinkage=0.2")),
            "get boosters and card again from a source you trust",
        ),
    ):
        shutil.copytree(kept, folder)
        damage()
        refusal = place.raised(code, lambda: load_texts(folder, FEATURES))
        assert refusal.remedy.startswith(remedy)
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        assert load_texts(folder, FEATURES) == [text]
        shutil.rmtree(folder)
    refusal = place.raised("booster.malformed", lambda: load_texts(kept, ("a", "c", "b")))
    assert refusal.remedy.startswith("use the configuration that was saved with the model")
    assert load_texts(kept, FEATURES) == [text]


@case("model.rule")
def a_rule_of_other_settings(place: Place) -> None:
    words = ["read.root=.", "size=tiny"]
    build_method(compose_config(words, "bsi_subtraction")).save(place.folder)
    other = build_method(compose_config([*words, "method.rule.larger_than=9"], "bsi_subtraction"))
    refusal = place.raised("model.rule", lambda: other.load(place.folder))
    assert refusal.remedy == "build the method from the configuration it was saved with"
    build_method(compose_config(words, "bsi_subtraction")).load(place.folder)


@case("weights.unreadable")
def weights_cut_off(place: Place) -> None:
    network = torch.nn.Linear(2, 2)
    save_weights(network, place.folder)
    path = place.folder / "weights.safetensors"
    sound = path.read_bytes()
    path.write_bytes(sound[:-4])
    refusal = place.raised("weights.unreadable", lambda: load_weights(network, place.folder))
    assert refusal.remedy.startswith("copy it again")
    path.write_bytes(sound)
    load_weights(network, place.folder)


@case("prepared.finite", "prepared.name", "prepared.unreadable")
def prepared_pairs(place: Place) -> None:
    folder = place.folder / "pair"
    broken = np.full(test_prepared.SHAPE, np.nan, np.float32)
    sound = Volume(np.nan_to_num(broken), test_prepared.AFFINE)

    def write(name: str, volume: Volume) -> PreparedSubject:
        shutil.rmtree(folder, ignore_errors=True)
        return PreparedSubject.write(test_prepared.pair({name: volume}), folder)

    wrong = Volume(broken, test_prepared.AFFINE)
    refusal = place.raised("prepared.finite", lambda: write("ratio", wrong))
    assert refusal.remedy == "preprocessing must replace them"
    write("ratio", sound)
    refusal = place.raised("prepared.name", lambda: write("../x", sound))
    assert refusal.remedy == "give the volume another name"
    prepared = write("x", sound)

    refusal = place.raised("prepared.name", lambda: prepared.image("y"))
    assert refusal.remedy == "name a volume that preprocessing keeps"
    prepared.image(refusal.expected.split(", ")[0])
    values = prepared.image(BASELINE)
    added = place.folder / "added"
    refusal = place.raised("prepared.name", lambda: prepared.with_image("x", values, added))
    assert refusal.remedy == "give the stage's image another name"
    prepared.with_image("z", values, added)

    (folder / "meta.json").write_text("{")
    refusal = place.raised("prepared.unreadable", lambda: PreparedSubject.open(folder))
    assert refusal.remedy == "delete its folder and prepare it again"
    shutil.rmtree(folder)
    write("x", sound)
    PreparedSubject.open(folder).verify()


@case("evaluate.mask")
def a_probability_in_place_of_a_mask(place: Place) -> None:
    mask = np.zeros((4, 4, 4), bool)
    map_of_it = mask[None].astype(np.float32)
    refusal = place.raised("evaluate.mask", lambda: score_case(map_of_it, mask[None], (1, 1, 1)))
    assert refusal.remedy == "threshold the probability and drop single axes first"
    score_case(map_of_it[0] > 0.5, mask, (1, 1, 1))

"""Costs that a run records, over interruptions."""

from __future__ import annotations

import pytest

from msseg_lightning.core.files import write_record
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.run.train import cost
from msseg_lightning.run.train.cost import FitCost, device, length_facts, model_parameters


def test_minutes_add_up_and_the_largest_memory_counts(monkeypatch):
    clock, processor, memory = [100.0], [10.0], [500]
    monkeypatch.setattr(cost.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(cost, "processor_s", lambda: processor[0])
    monkeypatch.setattr(cost, "peak_mib", lambda: memory[0])
    first = FitCost({})
    clock[0], processor[0] = 220.0, 70.0
    facts = first.facts()
    assert facts == {"fit_minutes": 2.0, "fit_cpu_minutes": 1.0, "peak_mib": 500}
    second = FitCost(facts)
    clock[0], processor[0], memory[0] = 280.0, 190.0, 400
    assert second.facts() == {"fit_minutes": 3.0, "fit_cpu_minutes": 3.0, "peak_mib": 500}


def test_processor_time_and_memory_are_those_of_this_process():
    before = cost.processor_s()
    sum(range(200_000))
    assert cost.processor_s() >= before > 0
    assert 20 < cost.peak_mib() < 200_000


def test_parameters_of_all_networks_of_a_model(tmp_path):
    assert model_parameters(tmp_path) is None
    write_record(tmp_path / "members" / "a" / "card.json", {"parameters": 100})
    write_record(tmp_path / "stages" / "b" / "card.json", {"parameters": 20})
    assert model_parameters(tmp_path) == 120
    write_record(tmp_path / "card.json", {"parameters": None})
    assert model_parameters(tmp_path) is None


@pytest.mark.parametrize(
    ("system", "word"),
    [
        ("oversampled_unet", "train.minutes=1"),
        ("metric_learning_unet", "++stages.metric.train.minutes=1"),
        ("softseg_unet_ensemble", "++ensemble.variants.softseg_modified_unet.settings=[VALUE]"),
    ],
)
def test_a_length_in_minutes_is_noted_wherever_it_is(system, word):
    words = ["size=tiny", "read.root=x", "trainer.accelerator=cpu"]
    assert length_facts(compose_config(words, system)) == {}
    noted = compose_config([*words, word.replace("VALUE", "'train.minutes=1'")], system)
    assert "bit for bit" in length_facts(noted)["repeatable"] and device(noted) == "cpu"

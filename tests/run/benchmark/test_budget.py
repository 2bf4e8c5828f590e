"""What every network of a system gets of a budget."""

from __future__ import annotations

import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.run.benchmark.budget import Budget, networks_of
from msseg_lightning.run.config.compose import compose_config
from tests.run.benchmark.conftest import composed

CPU = ["size=cpu", "read.root=x"]


def divided(system, budget):
    """Minutes or steps of every fit, as the composed configuration has them."""
    known = composed(tuple(CPU), system, True)
    config = compose_config([*CPU, *budget.overrides(known)], system)
    found = []
    for one in networks_of(config):
        part = config if one.member is None else config["ensemble"]["configs"][one.member]
        part = part if one.place == "train" else part["stages"][one.place.split(".")[1]]
        found += [part["train"]] * one.fits
    return found


@pytest.mark.parametrize(
    ("system", "minutes"),
    [
        ("metric_learning_unet", [2.0, 2.0]),  # a stage of as many steps
        # the first stage twice, out of fold, with 600 steps each; then 800
        ("cascaded_probability_difference", [1.2, 1.2, 1.6]),
        ("triplanar_unet", [2.0, 2.0]),  # one system on two folds
        ("softseg_unet_ensemble", [2.0, 2.0]),  # the second is a variant with settings of its own
        ("bsi_lightgbm", []),
    ],
)
def test_networks_share_minutes_by_their_steps(system, minutes):
    assert [train["minutes"] for train in divided(system, Budget(minutes=4.0))] == minutes


def test_members_keep_their_own_settings_beside_the_budget():
    own = composed(tuple(CPU), "softseg_unet_ensemble", True)
    words = Budget(minutes=4.0).overrides(own)
    changed = compose_config([*CPU, *words], "softseg_unet_ensemble")
    for name, member in own["ensemble"]["configs"].items():
        now = changed["ensemble"]["configs"][name]
        assert now["network"] == member["network"]
        assert {**now["train"], "minutes": None} == member["train"]


def test_steps_are_divided_likewise_and_validated_at_their_end():
    first, second, last = divided("cascaded_probability_difference", Budget(steps=100))
    assert first == second and (first["steps"], last["steps"]) == (30, 40)
    assert (first["validate_every"], last["validate_every"]) == (30, 40)  # of 200: never
    assert divided("oversampled_unet", Budget(steps=1000))[0]["validate_every"] == 100
    assert last["minutes"] is None


def test_without_a_budget_nothing_changes():
    config = composed(tuple(CPU), "oversampled_unet", True)
    assert Budget().overrides(config) == [] and "settings" in str(Budget())


@pytest.mark.parametrize(
    "given",
    [
        {"minutes": "4", "steps": "100"},
        {"minutes": "0"},
        {"minutes": "many"},
        {"minutes": "inf"},
        {"steps": "1.5"},
        {"hours": "1"},
    ],
)
def test_what_is_no_budget_is_refused(given):
    with pytest.raises(MssegError, match=r"benchmark\.budget"):
        Budget.parse(given)

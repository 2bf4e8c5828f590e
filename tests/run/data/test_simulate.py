import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.run.data.simulate import load_recipe, preset_names
from msseg_lightning.simulate.recipe import CohortRecipe
from msseg_lightning.simulate.scanner import scanners_named


def test_every_preset_loads_and_is_sound():
    assert {"challenge", "small", "tiny", "stress", "unlabelled_pairs", "single_timepoint"} <= set(
        preset_names()
    )
    for name in preset_names():
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.size > 0
        scanners_named(*recipe.train_scanners, *recipe.test_scanners)
        for index in range(recipe.size):
            recipe.for_patient(index)  # every varied field exists


def test_challenge_is_the_default_recipe():
    assert load_recipe("challenge") == CohortRecipe()


def test_overrides_change_single_values():
    recipe = load_recipe("tiny", ["train=4", "lesions.touching=0.5", "noise=2", "raw=true"])
    assert (recipe.train, recipe.lesions.touching, recipe.noise, recipe.raw) == (4, 0.5, 2.0, True)
    assert recipe.lesions.stratum == load_recipe("tiny").lesions.stratum
    assert load_recipe("tiny", ["lesions.contrast=[1.2,1.4]"]).lesions.contrast == (1.2, 1.4)
    assert load_recipe("tiny", ["train_scanners=[ge]"]).train_scanners == ("ge",)


@pytest.mark.parametrize(
    ("preset", "overrides", "named"),
    [
        ("huge", [], "huge"),
        ("tiny", ["lesions.tuching=1"], "lesions.tuching"),
        ("tiny", ["train=many"], "train"),
        ("tiny", ["lesions.contrast=[1.2]"], "lesions.contrast"),
        ("tiny", ["lesions=5"], "lesions"),
    ],
)
def test_mistakes_are_named(preset, overrides, named):
    with pytest.raises(MssegError) as caught:
        load_recipe(preset, overrides)
    assert caught.value.exit_code == ExitCode.CONFIG
    assert named in str(caught.value)

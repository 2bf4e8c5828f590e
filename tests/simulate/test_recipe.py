import pytest

from msseg_lightning.core.problem import ExitCode, MssegError
from msseg_lightning.simulate.recipe import CohortRecipe, replace_field


def test_defaults_are_the_challenge():
    recipe = CohortRecipe()
    assert (recipe.train, recipe.test, recipe.size) == (40, 60, 100)
    assert recipe.lesions.without_new == 11 / 40 and recipe.lesions.with_one == 9 / 40
    assert not any(name.startswith("ge") for name in recipe.train_scanners)
    assert [recipe.part(index) for index in (0, 39, 40, 99)] == ["train", "train", "test", "test"]
    assert recipe.patient_name(12) == "013"


def test_one_nested_field_is_replaced():
    recipe = replace_field(CohortRecipe(), "change.misregistration_mm", 1.0)
    assert recipe.change.misregistration_mm == 1.0
    assert recipe.lesions == CohortRecipe().lesions
    with pytest.raises(MssegError) as caught:
        replace_field(recipe, "change.nonsense", 1.0)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_conditions_of_a_stress_cohort():
    recipe = CohortRecipe(
        vary={"noise": (1.0, 2.0), "lesions.contrast": ((1.1, 1.2),)}, vary_patients=2
    )
    conditions = [recipe.condition(index) for index in range(6)]
    assert (
        conditions
        == [("noise", 1.0)] * 2 + [("noise", 2.0)] * 2 + [("lesions.contrast", (1.1, 1.2))] * 2
    )
    assert recipe.for_patient(2).noise == 2.0
    assert recipe.for_patient(4).lesions.contrast == (1.1, 1.2)
    assert CohortRecipe().for_patient(3) is not None and CohortRecipe().condition(3) is None

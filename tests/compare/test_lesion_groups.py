import dataclasses

import pytest

from msseg_lightning.compare.lesion_groups import TRAITS, lesion_groups
from msseg_lightning.compare.systems import read_systems
from msseg_lightning.evaluate.summary import summarise
from tests.compare import scored


def described(score):
    """The largest lesion of either mask is clear and deep, others are faint and juxtacortical."""

    def lesions(found):
        return tuple(
            dataclasses.replace(
                one,
                contrast=2.0 if one.label == 1 else 1.1,
                region="deep" if one.label == 1 else "juxtacortical",
            )
            for one in found
        )

    return dataclasses.replace(
        score,
        reference_lesions=lesions(score.reference_lesions),
        predicted_lesions=lesions(score.predicted_lesions),
    )


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    found = {case: described(score) for case, score in scored.scores(0.8, 3).items()}
    folder = scored.write_run(tmp_path_factory.mktemp("runs"), "net", found)
    return read_systems([str(folder)])[0]


def test_sizes_are_those_of_the_summary(system):
    expected = summarise(scored.scores(0.8, 3)).with_lesions.by_size
    for one, other in zip(lesion_groups(system, 0)["size"], expected, strict=True):
        assert one.true == other.true
        assert (one.f1 is None) == (other.f1 is None)
        if one.f1 is not None:
            assert one.f1 == pytest.approx(other.f1)
            assert one.interval == pytest.approx(other.f1_interval, abs=0.05)


def test_contrast_and_region_divide_the_same_lesions(system):
    groups = lesion_groups(system, 0)
    assert [one.name for one in groups["region"]] == list(TRAITS["region"][0])
    contrast = {one.name: one for one in groups["contrast"]}
    region = {one.name: one for one in groups["region"]}
    assert contrast["above 1.5"].true == region["deep"].true == 12  # one of each patient
    assert contrast["up to 1.15"].f1 == region["juxtacortical"].f1 < 1
    assert contrast["1.15 to 1.3"].f1 is None and region["infratentorial"].true == 0
    assert sum(one.true for one in groups["region"]) == sum(one.true for one in groups["size"])


def test_a_trait_that_one_lesion_lacks_is_not_recorded(system):
    cases = dict(system.seeds[0])
    cases["p03"] = scored.scores(0.8, 3, ["p03"])["p03"]  # of an earlier version
    groups = lesion_groups(dataclasses.replace(system, seeds={0: cases}), 0)
    assert groups["contrast"] == groups["region"] == () and groups["size"]


def test_without_lesions_there_are_no_groups(tmp_path):
    cases = scored.patients()[12:]
    run = scored.write_run(tmp_path, "net", scored.scores(0.8, 1, cases))
    assert set(lesion_groups(read_systems([str(run)])[0], 0).values()) == {()}

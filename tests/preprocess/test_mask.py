import numpy as np
import pytest

from msseg_lightning.core.problem import MssegError
from msseg_lightning.core.subject import BASELINE, BRAIN, TARGET
from msseg_lightning.core.volume import Volume
from msseg_lightning.preprocess.mask import ApplyMask, CombineMasks, ConsensusForRaters


@pytest.fixture
def visits(phantom):
    subject = phantom.pair(phantom.grid("canonical"), brain=False)
    affine = subject.grid.affine
    first, second = np.zeros(subject.grid.shape, bool), np.zeros(subject.grid.shape, bool)
    first[:10], second[8:] = True, True
    return subject.replace(
        volumes={
            **subject.volumes,
            "baseline_brain": Volume(first, affine, "mask"),
            "followup_brain": Volume(second, affine, "mask"),
        }
    )


@pytest.mark.parametrize(
    ("rule", "planes"), [("union", 44), ("intersection", 2), ("followup", 36), ("baseline", 10)]
)
def test_rules(visits, rule, planes):
    combined = CombineMasks(rule)(visits)
    assert np.asarray(combined.volumes[BRAIN].data)[:, 0, 0].sum() == planes
    assert "baseline_brain" not in combined.volumes


def test_given_brain_is_kept_and_missing_masks_are_named(phantom, visits):
    given = phantom.pair(phantom.grid("canonical"))
    assert CombineMasks()(given) is given
    volumes = {n: v for n, v in visits.volumes.items() if n != "followup_brain"}
    with pytest.raises(MssegError, match="followup_brain"):
        CombineMasks()(visits.replace(volumes=volumes))


def test_apply_mask(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    masked = ApplyMask()(subject)
    inside = np.asarray(subject.volumes[BRAIN].data)
    image, before = (np.asarray(s.volumes[BASELINE].data) for s in (masked, subject))
    assert not image[~inside].any()
    np.testing.assert_array_equal(image[inside], before[inside])
    assert masked.volumes[TARGET] is subject.volumes[TARGET]


def test_empty_mask_leaves_the_scan(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    nothing = Volume(np.zeros(subject.grid.shape, bool), subject.grid.affine, "mask")
    same = ApplyMask()(subject.replace(volumes={**subject.volumes, BRAIN: nothing}))
    assert same.volumes[BASELINE] is subject.volumes[BASELINE] and "empty" in same.notes[-1]


def test_apply_mask_to_labels_too(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    affine = subject.grid.affine
    inside = np.zeros(subject.grid.shape, bool)
    inside[:20] = True
    soft = np.full(subject.grid.shape, 0.25, np.float32)
    volumes = {
        **subject.volumes,
        BRAIN: Volume(inside, affine, "mask"),
        TARGET: Volume(np.ones(subject.grid.shape, np.uint8), affine, "mask"),
        "soft": Volume(soft, affine, "probability"),
    }
    found = ApplyMask(labels=True)(subject.replace(volumes=volumes)).volumes
    assert np.array_equal(found[TARGET].data, inside) and found[TARGET].data.dtype == np.uint8
    assert np.array_equal(found["soft"].data, soft * inside)
    assert found["soft"].kind == "probability" and found[BRAIN] is volumes[BRAIN]
    left = ApplyMask()(subject.replace(volumes=volumes)).volumes
    assert left["soft"] is volumes["soft"]


def test_the_consensus_stands_for_missing_raters(phantom):
    subject = phantom.pair(phantom.grid("canonical"))
    target = subject.volumes[TARGET]
    own = Volume(np.zeros(target.data.shape, np.uint8), target.affine, "mask")
    one = subject.replace(volumes={**subject.volumes, f"{TARGET}_rater2": own})
    found = ConsensusForRaters()(one)
    assert found.volumes[f"{TARGET}_rater2"] is own
    for number in (1, 3, 4):
        assert found.volumes[f"{TARGET}_rater{number}"] is target
    assert f"{TARGET}_rater5" not in found.volumes
    assert found.notes[-1].startswith("the consensus stands for new_lesions_rater1, ")
    unlabelled = {name: v for name, v in subject.volumes.items() if name != TARGET}
    bare = subject.replace(volumes=unlabelled)
    assert ConsensusForRaters()(bare) is bare
    whole = ConsensusForRaters()(found)
    assert whole is found

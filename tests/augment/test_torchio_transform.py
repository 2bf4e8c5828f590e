"""TorchIO's own answer on a subject with both visits is what is expected, voxel by voxel."""

import threading

import numpy as np
import pytest
import torch
import torchio as tio
from omegaconf import OmegaConf

from msseg_lightning.augment.fused import FusedAugment
from msseg_lightning.augment.torchio_transform import (
    TorchioTransform,
    from_torchio,
    to_torchio,
)
from msseg_lightning.core.random import keyed_generator
from msseg_lightning.core.subject import (
    BASELINE,
    FOLLOWUP,
    TARGET,
    LoadedSubject,
    LongitudinalSubject,
    Native,
)
from msseg_lightning.core.volume import Volume
from msseg_lightning.run.assemble.system import instantiate
from msseg_lightning.run.config.allow_list import LIBRARY_CLASSES, refuse_targets

CENTRE = np.array([21.5, 25.5, 18.5])
SIZE = (16, 18, 20)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
ARGUMENTS = {
    "Affine": {"scales": [1.1, 0.9, 1.0], "degrees": [5, 10, 0], "translation": [1, 0, 2]},
    "Clamp": {"out_min": 0.2},
    "Flip": {"axes": [0, 2]},
    "Gamma": {"gamma": 1.3},
    "RandomFlip": {"axes": [0, 1, 2], "flip_probability": 0.9},
    "RandomElasticDeformation": {"num_control_points": 5, "max_displacement": 3.0},
    "RandomAffineElasticDeformation": {
        "affine_kwargs": {"degrees": 10},
        "elastic_kwargs": {"num_control_points": 5, "max_displacement": 3.0},
    },
}
SINGLE = sorted(
    name.rpartition(".")[2]
    for name in LIBRARY_CLASSES["augment"]
    if name.startswith("torchio.") and not name.endswith(("Compose", "OneOf"))
)
MOVING = ["Affine", "Flip", "RandomAffine", "RandomAffineElasticDeformation"]
MOVING += ["RandomElasticDeformation", "RandomFlip"]


def node(name, **more):
    return {"_target_": f"torchio.transforms.{name}", **ARGUMENTS.get(name, {}), **more}


def engine(*transforms, **more):
    """Built as from YAML, the allow list included."""
    augment = {
        "_target_": "msseg_lightning.augment.torchio_transform.TorchioTransform",
        "transforms": {f"step{number}": each for number, each in enumerate(transforms)},
        **more,
    }
    read = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml({"augment": augment})))
    refuse_targets(read)
    return instantiate(read["augment"])


def cut(pair, maker, key=1, names=(BASELINE, FOLLOWUP), labels=(TARGET, "soft")):
    images = np.empty((len(names), *SIZE), np.float32)
    masks = np.empty((len(labels), *SIZE), np.float32)
    seed = maker.fill(pair, CENTRE, names, labels, keyed_generator(key), images, masks)
    return images, masks, seed


def subject_of(pair):
    """Both visits and both labels of the plain patch, made without the adapter."""
    images, labels, _ = cut(pair, FusedAugment())
    affine = AFFINE.copy()
    affine[:3, 3] = AFFINE[:3, :3] @ (CENTRE - (np.array(SIZE) - 1) / 2)
    return tio.Subject(
        baseline=tio.ScalarImage(tensor=torch.tensor(images[:1]), affine=affine),
        followup=tio.ScalarImage(tensor=torch.tensor(images[1:]), affine=affine),
        target=tio.LabelMap(tensor=torch.tensor(labels[:1]), affine=affine),
        soft=tio.LabelMap(tensor=torch.tensor(labels[1:]), affine=affine),
    )


def same(images, labels, expected):
    assert np.array_equal(images[0], expected["baseline"].numpy()[0])
    assert np.array_equal(images[1], expected["followup"].numpy()[0])
    assert np.array_equal(labels[0], expected["target"].numpy()[0] > 0.5)
    assert np.array_equal(labels[1], expected["soft"].numpy()[0].clip(0, 1))


@pytest.mark.parametrize("name", SINGLE)
def test_both_visits_and_masks_are_as_torchio_makes_them_of_one_subject(pair, name):
    """The same seed, the transform of YAML here and TorchIO's own class there."""
    images, labels, seed = cut(pair, engine(node(name), per_visit=False))
    arguments = ARGUMENTS.get(name, {})
    torch.manual_seed(seed)
    expected = getattr(tio, name)(**arguments)(subject_of(pair))
    same(images, labels, expected)
    plain, masks, _ = cut(pair, FusedAugment())
    assert not np.array_equal(images, plain), "the transform must do something here"
    assert (name in MOVING) != np.array_equal(labels[1], masks[1])


@pytest.mark.parametrize("name", ["RandomGamma", "RandomNoise", "RandomBiasField", "RandomMotion"])
def test_intensities_are_drawn_for_each_visit_probability_too(pair, name):
    """TorchIO itself with ``include`` of one visit after the other, drawn on from one seed."""
    half = node(name, p=0.5)
    plain = subject_of(pair)
    changed = set()
    for key in range(12):
        images, labels, seed = cut(pair, engine(half), key)
        torch.manual_seed(seed)
        expected = plain
        for visit in ("baseline", "followup"):
            expected = getattr(tio, name)(p=0.5, include=[visit])(expected)
        same(images, labels, expected)
        changed.add(
            (
                not np.array_equal(images[0], plain["baseline"].numpy()[0]),
                not np.array_equal(images[1], plain["followup"].numpy()[0]),
            )
        )
    assert {(True, False), (False, True)} <= changed


def test_images_of_no_named_visit_keep_their_values_and_move_along(pair):
    """The follow-up taken for a map of positions: noise leaves it alone, a mirror does not."""
    plain, _, _ = cut(pair, FusedAugment())
    images, _, _ = cut(pair, engine(node("RandomNoise"), visits=["baseline"]))
    assert not np.array_equal(images[0], plain[0]) and np.array_equal(images[1], plain[1])
    images, _, _ = cut(pair, engine(node("Flip"), visits=["baseline"]))
    np.testing.assert_array_equal(images, plain[:, ::-1, :, ::-1])


def test_a_group_is_one_draw_where_one_of_it_moves_voxels(pair):
    group = node("OneOf", transforms=[node("Flip"), node("RandomBlur")])
    for key in range(4):
        images, labels, seed = cut(pair, engine(group), key)
        torch.manual_seed(seed)
        expected = tio.OneOf([tio.Flip(axes=[0, 2]), tio.RandomBlur()])(subject_of(pair))
        same(images, labels, expected)


def test_a_group_of_intensities_is_drawn_for_each_visit(pair):
    group = node("Compose", transforms=[node("RandomBlur", p=0.5), node("RandomGamma", p=0.5)])
    images, labels, seed = cut(pair, engine(group))
    torch.manual_seed(seed)
    expected = subject_of(pair)
    for visit in ("baseline", "followup"):
        steps = [tio.RandomBlur(p=0.5, include=[visit]), tio.RandomGamma(p=0.5, include=[visit])]
        expected = tio.Compose(steps)(expected)
    same(images, labels, expected)


def test_thick_slices_of_each_visit_and_of_masks_too_where_wanted(pair):
    """RandomAnisotropy is no intensity transform of TorchIO, but leaves masks alone by default."""
    images, labels, _ = cut(pair, engine(node("RandomAnisotropy", axes=[0, 1, 2])), key=3)
    plain, masks, _ = cut(pair, FusedAugment(), key=3)
    assert np.array_equal(labels, masks) and not np.array_equal(images, plain)
    everything = node("RandomAnisotropy", scalars_only=False, downsampling=[3, 4])
    images, labels, seed = cut(pair, engine(everything))
    torch.manual_seed(seed)
    expected = tio.RandomAnisotropy(scalars_only=False, downsampling=(3, 4))(subject_of(pair))
    same(images, labels, expected)


def test_images_of_one_visit_share_the_draw(pair):
    """The field of a visit multiplies each of its images; the other visit has another field."""
    names = (BASELINE, FOLLOWUP, "baseline_ratio")
    images, _, _ = cut(pair, engine(node("RandomBiasField")), names=names)
    plain, _, _ = cut(pair, FusedAugment(), names=names)
    seen = (np.abs(plain) > 0.1).all(0)
    baseline, followup, ratio = (images / np.where(seen, plain, 1))[:, seen]
    assert np.allclose(baseline, ratio, rtol=1e-5) and np.abs(baseline - 1).max() > 0.1
    assert np.abs(baseline - followup).max() > 0.1


def test_a_soft_label_moves_linearly_where_asked_and_a_mask_stays_one(pair):
    turn = node("Affine", **{"degrees": [0, 0, 20], "translation": [0, 0, 0]})
    turn |= {"scales": [1, 1, 1], "label_interpolation": "linear"}
    _, labels, _ = cut(pair, engine(turn), labels=(TARGET, "soft"))
    assert set(np.unique(labels[0])) == {0, 1}
    nearest = turn | {"label_interpolation": "nearest"}
    _, other, _ = cut(pair, engine(nearest), labels=(TARGET, "soft"))
    assert not np.array_equal(labels[1], other[1])
    assert labels[1].min() >= 0 and labels[1].max() <= 1


@pytest.mark.parametrize("name", SINGLE)
def test_the_generators_of_the_training_thread_are_left_alone(pair, name):
    torch.manual_seed(5)
    np.random.seed(5)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    results = [cut(pair, engine(node(name)), key)[0] for key in (1, 2, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numbers)
    assert np.array_equal(results[0], results[2])
    if name.startswith("Random") and name != "RandomFlip":
        assert not np.array_equal(results[0], results[1])


def test_threads_do_not_share_draws(pair):
    noisy = engine(node("RandomNoise"), node("RandomMotion"), node("RandomFlip"))
    alone = [cut(pair, noisy, key)[0] for key in range(4)]
    together = [None] * 4

    def make(key):
        together[key] = cut(pair, noisy, key)[0]

    threads = [threading.Thread(target=make, args=(key,)) for key in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        torch.rand(1000)  # the training thread draws meanwhile
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_outside_the_adapter_torchio_draws_as_ever():
    image = tio.ScalarImage(tensor=torch.zeros(1, 4, 4, 4))
    torch.manual_seed(1)
    first = tio.RandomNoise()(image).numpy()
    torch.manual_seed(1)
    assert np.array_equal(tio.RandomNoise()(image).numpy(), first)
    before = torch.get_rng_state()
    with tio.Transform._use_seed(3):
        inside = torch.rand(1)
    torch.testing.assert_close(inside, torch.rand(1, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_changed_size_is_refused(pair):
    wrong = TorchioTransform({"crop": tio.Crop(2)})
    with pytest.raises(ValueError, match=r"baseline has shape \(12, 14, 16\) after TorchIO"):
        cut(pair, wrong)


def loaded_pair():
    generator = np.random.default_rng(1)
    affine = np.array([[0, 1.5, 0, 3], [-2.0, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]])
    volumes = {
        BASELINE: Volume(generator.random((5, 6, 7)).astype(np.float32), affine),
        FOLLOWUP: Volume(generator.random((5, 6, 7)).astype(np.float32), affine),
        TARGET: Volume((generator.random((5, 6, 7)) > 0.8).astype(np.uint8), affine, "mask"),
        "soft": Volume(generator.random((5, 6, 7)).astype(np.float32), affine, "probability"),
    }
    subject = LongitudinalSubject("pair", "pair", {})
    return LoadedSubject(subject, volumes, Native(volumes[BASELINE].grid, b""), notes=("kept",))


def test_a_loaded_pair_goes_to_torchio_and_back():
    loaded = loaded_pair()
    subject = to_torchio(loaded)
    assert type(subject[BASELINE]) is type(subject[FOLLOWUP]) is tio.ScalarImage
    assert type(subject[TARGET]) is type(subject["soft"]) is tio.LabelMap
    back = from_torchio(subject, loaded)
    assert back.notes == ("kept",) and list(back.volumes) == list(loaded.volumes)
    for name, volume in loaded.volumes.items():
        found = back.volumes[name]
        assert found.data.dtype == volume.data.dtype and found.kind == volume.kind
        assert np.array_equal(found.data, volume.data)
        assert np.array_equal(found.affine, volume.affine)


def test_a_crop_by_torchio_keeps_every_voxel_at_its_place_in_the_world():
    """Voxel (1, 2, 3) of the crop was (2, 4, 6)."""
    loaded = loaded_pair()
    back = from_torchio(tio.Crop((1, 1, 2, 1, 3, 0))(to_torchio(loaded)), loaded)
    assert back.grid.shape == (3, 3, 4)
    assert back.volumes[FOLLOWUP].data[1, 1, 3] == loaded.volumes[FOLLOWUP].data[2, 3, 6]
    assert np.allclose(back.grid.affine @ [1, 1, 3, 1], loaded.grid.affine @ [2, 3, 6, 1])


def test_what_is_no_volume_does_not_come_back():
    loaded = loaded_pair()
    subject = to_torchio(loaded)
    subject.remove_image(TARGET)
    with pytest.raises(ValueError, match=TARGET):
        from_torchio(subject, loaded)


def test_transforms_happen_in_their_order(pair):
    two = engine(node("RandomGamma"), node("Clamp"), node("RandomFlip"), per_visit=False)
    images, labels, seed = cut(pair, two)
    torch.manual_seed(seed)
    flip = tio.RandomFlip(**ARGUMENTS["RandomFlip"])
    expected = flip(tio.Clamp(out_min=0.2)(tio.RandomGamma()(subject_of(pair))))
    same(images, labels, expected)
    assert images.min() >= 0.2

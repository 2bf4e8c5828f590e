"""S26 and S26b-e: a network registers and marks, a U-Net of its answers finds the new lesions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from msseg_lightning.core.batch import Batch
from msseg_lightning.core.method import FitContext
from msseg_lightning.network.ncr_net import NcrNet
from msseg_lightning.network.registration import SpatialTransformer, jacobian_determinant
from msseg_lightning.read.msseg2 import Msseg2
from msseg_lightning.run.assemble.system import build_method, instantiate
from msseg_lightning.run.config.compose import compose_config
from msseg_lightning.train.terms import LoggedTerms

STAGED = ("ncr_net", "ncr_unet_without_map")
MARKING = ("ncr_net_unsupervised", "ncr_net_supervised")
SHIFT = (1.5, -1.0)


def paper(name="ncr_net", *words):
    return compose_config(["read.root=nowhere", *words], name)


def loss_of(name):
    """The loss by which NCR-Net is trained."""
    config = paper(name)
    stages = config["stages"]
    return instantiate((stages["correspondence"] if stages else config)["loss"])


@pytest.fixture(scope="module")
def phantom():
    """Two slabs of one texture: the second visit shifted with a blob added, and unchanged."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 3, 9, 9, generator=generator)
    texture = functional.interpolate(coarse, size=(3, 64, 64), mode="trilinear", align_corners=True)
    field = torch.tensor([0.0, *SHIFT]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 64, 64)
    inner = (..., slice(12, 52), slice(12, 52))
    baseline, moved = texture[inner], SpatialTransformer()(texture, field)[inner]
    blob = torch.zeros_like(moved)
    blob[..., 16:23, 18:25] = 1
    visits = torch.cat(
        [torch.cat([baseline, moved + 0.6 * blob], 1), torch.cat([baseline, baseline], 1)]
    )
    visits = visits + 0.01 * torch.randn(visits.shape, generator=generator)
    return torch.cat([visits, visits[:, 1:] - visits[:, :1]], 1), blob > 0


@pytest.fixture(scope="module")
def registered(phantom):
    """A small network after 70 steps on the phantom with the loss of the experiment."""
    images, _ = phantom
    torch.manual_seed(0)
    loss = instantiate(
        paper("ncr_net", "stages.correspondence.loss.resolutions=[1.0]")["stages"][
            "correspondence"
        ]["loss"]
    )
    network = NcrNet([2, 1], 2, [4, 8], [[4, 4], [8, 4]], 1, 0.0, 7, 0.2)
    descent = torch.optim.Adam(network.parameters(), lr=3e-2)
    for _ in range(70):
        value = loss(network(images))
        descent.zero_grad()
        value.backward()
        descent.step()
    return network.eval()


def test_a_shift_is_found_and_what_is_new_is_marked(phantom, registered):
    images, blob = phantom
    with torch.no_grad():
        found = registered.register(images)
    marked, field = found.logits.sigmoid()[:1], found.displacements[0][:1]
    elsewhere = functional.max_pool3d(blob.float(), (1, 13, 13), 1, (0, 6, 6)) == 0
    elsewhere[..., :6, :] = elsewhere[..., -6:, :] = False
    elsewhere[..., :6] = elsewhere[..., -6:] = False
    error = field - torch.tensor([0.0, *SHIFT]).view(1, 3, 1, 1, 1)
    assert float(marked[blob].mean()) > 0.5 > 5 * float(marked[elsewhere].mean())
    assert float(error[:, 1:].norm(dim=1, keepdim=True)[elsewhere].mean()) < 0.5
    assert float((jacobian_determinant(field) > 0).float().mean()) > 0.999


def test_identical_visits_are_neither_moved_nor_marked(phantom, registered):
    images, _ = phantom
    with torch.no_grad():
        found = registered.register(images)
    assert float(found.displacements[0][1].abs().mean()) < 0.1
    assert float(found.logits.sigmoid()[1].mean()) < 0.05


@pytest.mark.parametrize("name", [*STAGED, "ncr_net_unsupervised"])
def test_the_loss_of_the_registration_never_reads_a_label(name):
    config = paper(name)
    part = config["stages"]["correspondence"] if name in STAGED else config
    assert part["channels"]["target"] is None and part["loss"]["overlap"] is None
    loss = loss_of(name)
    torch.manual_seed(0)
    network = NcrNet([2, 1], 2, [4, 4, 4, 4], [[4, 4]] * 4, 3, 0.0, 7, 0.05)
    assert part["train"]["task"]["_target_"].endswith(".LoggedTerms")
    task = LoggedTerms(network, loss, torch.optim.Adam)
    images = torch.rand(1, 3, 3, 16, 16)
    answers = [
        task.step(Batch(images, target, ("a",), torch.ones(1))).loss.item()
        for target in (torch.full((1, 1, 3, 16, 16), torch.nan), torch.empty(1, 0, 3, 16, 16))
    ]
    assert answers[0] == answers[1] == answers[0]


def test_the_supervised_network_has_one_more_term():
    free, taught = paper("ncr_net_unsupervised")["loss"], paper("ncr_net_supervised")["loss"]
    assert {**taught, "overlap": None} == free
    torch.manual_seed(0)
    network = NcrNet([2, 1], 2, [4, 4, 4, 4], [[4, 4]] * 4, 3, 0.0, 7, 0.05)
    answer = network(torch.rand(1, 3, 3, 16, 16))
    target = torch.zeros(1, 1, 3, 16, 16)
    parts = [set(loss_of(name).parts(answer, target)) for name in MARKING]
    assert parts[1] - parts[0] == {"overlap"} and parts[0] < parts[1]


def test_without_marks_and_prices_the_loss_is_a_plain_registration():
    words = [f"stages.correspondence.loss.{name}=0.0" for name in ("beta", "gamma")]
    node = paper("ncr_net", *words)["stages"]["correspondence"]["loss"]
    loss = instantiate(node)
    network = NcrNet([2, 1], 2, [4, 4, 4, 4], [[4, 4]] * 4, 3, 0.0, 7, 0.05)
    answer = network(torch.rand(1, 3, 3, 16, 16))
    unmarked = answer._replace(
        logits=answer.logits * 0 - 100, deeper=tuple(each * 0 - 100 for each in answer.deeper)
    )
    expected = sum(
        weight * loss.distance(warped, fixed).mean()
        for weight, warped, fixed in zip((0.7, 0.2, 0.1), answer.warped, answer.fixed, strict=True)
    )
    parts = loss.parts(unmarked)
    torch.testing.assert_close(parts["distance"], expected)
    torch.testing.assert_close(loss(unmarked), expected + parts["deformation"])


@pytest.mark.parametrize(
    ("name", "blocks"), [("ncr_net", 4), ("ncr_unet_without_map", 3), ("slab_difference_unet", 3)]
)
def test_the_unet_has_one_first_block_per_image(name, blocks):
    config = paper(name, "size=tiny")
    network = instantiate(config["network"])
    assert [block[0].in_channels for block in network.encoder.first] == [1] * blocks
    assert (network.registration is not None) == (name in STAGED)
    images = torch.rand(1, 3, 3, 16, 16)
    if name in STAGED:
        assert config["uses"] == {"network.registration": "correspondence"}
        made = network.streams(images)
        assert torch.equal(made[:, -2:], images[:, :2])
    else:
        assert torch.equal(network.streams(images), images)


@pytest.fixture(scope="module")
def fitted(coarse_cohort, tmp_path_factory):
    """Both stages, a few steps each, on the training patients."""
    work = tmp_path_factory.mktemp("ncr")
    words = ["size=tiny", f"paths.cache={work / 'cache'}", "track=off", "data.workers=1"]
    words += ["trainer.accelerator=cpu", "train.steps=2"]
    config = compose_config([*words, f"read.root={coarse_cohort}"], "ncr_net")
    subjects = Msseg2(coarse_cohort).subjects()
    method = build_method(config)
    method.fit(subjects[:2], [], work / "fit", FitContext())
    method.save(work / "model")
    return method, build_method(config), work / "model", subjects


def test_the_unet_holds_the_registration_of_the_first_stage_and_leaves_it(fitted):
    method, again, folder, _ = fitted
    first = method.fitted["correspondence"].network().state_dict()
    held = method.last.task.network.registration.state_dict()
    fresh = method.make({}).task.network.registration.state_dict()
    assert any((fresh[name] != value).any() for name, value in first.items())
    again.load(folder)
    loaded = again.last.task.network.registration.state_dict()
    for name, value in first.items():
        assert torch.equal(held[name], value) and torch.equal(loaded[name], value), name


def test_nothing_outside_the_brain_is_answered(fitted):
    method, _, _, subjects = fitted
    torch.nn.init.constant_(method.last.task.network.head[-1].bias, 10.0)
    found = method.predict(subjects[2])
    assert found.inside is not None and not found.inside.all()
    assert (found.mask > 0).any() and not (found.mask[~found.inside] > 0).any()

"""Layout of NCR-Net and of the U-Net that is given its answers."""

from __future__ import annotations

import pytest
import torch

from msseg_lightning.core.problem import MssegError
from msseg_lightning.network.ncr_net import (
    NcrNet,
    Registered,
    SkipDecoder,
    StreamEncoder,
    StreamUNet,
)

DECODER = [[6, 4], [8, 6]]


def registration(prior=0.05, **changes):
    torch.manual_seed(0)
    settings = {"resolutions": 1, "dropout": 0.0, "integration_steps": 7, "prior": prior}
    return NcrNet([2, 1], 2, [4, 6], DECODER, **{**settings, **changes})


def unet(images=4, **changes):
    torch.manual_seed(1)
    return StreamUNet(images, 2, [4, 6], DECODER, **{"dropout": 0.0, "prior": 0.1, **changes})


def slab(seed=0):
    visits = torch.rand(2, 2, 3, 16, 20, generator=torch.Generator().manual_seed(seed))
    return torch.cat([visits, visits[:, 1:] - visits[:, :1]], dim=1)


def with_field(network, displacement):
    """A registration that answers with a given field, in voxels of the slice."""
    for weight in network.velocity_heads.parameters():
        weight.data.zero_()
    network.velocity_heads[0][-1].bias.data[:] = torch.tensor(displacement)
    return network


def test_slices_are_kept_and_pixels_halved():
    encoder = StreamEncoder([2, 1], 2, [4, 6], 0.0)
    features = encoder(slab())
    shapes = [tuple(level.shape[1:]) for level in features]
    assert shapes == [(4, 3, 16, 20), (4, 3, 8, 10), (6, 3, 4, 5)]
    decoded = SkipDecoder(encoder.widths, DECODER, 0.0)(features)
    assert [tuple(level.shape[1:]) for level in decoded] == [(4, 3, 16, 20), (6, 3, 8, 10)]


def test_every_stream_has_a_block_of_its_own():
    encoder = StreamEncoder([2, 1], 2, [4], 0.0).eval()
    images = slab()
    changed = images.clone()
    changed[:, 2] = 0
    before, after = encoder(images)[0], encoder(changed)[0]
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2:], after[:, 2:])


def test_fields_and_maps_of_all_resolutions():
    network = NcrNet([2, 1], 2, [4, 6, 8], [*DECODER, [8, 8]], 2, 0.0, 7, 0.05)
    found = network(torch.rand(1, 3, 3, 16, 24))
    assert isinstance(found, Registered)
    fine, coarse = (3, 16, 24), (3, 8, 12)
    for parts in (found.velocities, found.displacements):
        assert [tuple(part.shape[1:]) for part in parts] == [(3, *fine), (3, *coarse)]
    for parts in ((found.logits, *found.deeper), found.warped, found.fixed):
        assert [tuple(part.shape[1:]) for part in parts] == [(1, *fine), (1, *coarse)]
    network.eval()
    assert torch.is_tensor(network(torch.rand(1, 3, 3, 16, 24)))


def test_fields_and_maps_have_a_decoder_each():
    """What the fields are computed by learns nothing from the map, and the reverse."""
    network = registration().eval()
    found = network.register(slab())
    for answer, own, other in (
        (found.velocities[0], network.field_decoder, network.map_decoder),
        (found.logits, network.map_decoder, network.field_decoder),
    ):
        network.zero_grad()
        answer.square().sum().backward(retain_graph=True)
        assert all(weight.grad is not None for weight in own.parameters())
        assert all(weight.grad is None for weight in other.parameters())


def test_a_new_network_moves_nothing_and_marks_little():
    network, images = registration().eval(), slab()
    found = network.register(images)
    assert float(found.displacements[0].detach().abs().max()) < 1e-3
    torch.testing.assert_close(found.warped[0], images[:, :1], atol=1e-3, rtol=0)
    assert torch.equal(found.fixed[0], images[:, 1:2])
    assert 0.01 < float(found.logits.sigmoid().mean()) < 0.2


def test_the_baseline_is_moved_onto_the_follow_up():
    """phi of +2 rows: row 5 of the answer is row 7 of the baseline."""
    images = slab()
    found = with_field(registration(), [0.0, 2.0, 0.0]).eval().register(images)
    torch.testing.assert_close(
        found.warped[0][:, 0, :, 2:-4], images[:, 0, :, 4:-2], atol=1e-4, rtol=0
    )


def test_the_unet_is_given_difference_map_and_both_visits():
    images = slab()
    moving = with_field(registration(prior=0.01), [0.0, 2.0, 0.0])
    network = unet(registration=moving)
    made = network.streams(images)
    assert made.shape == (2, 4, 3, 16, 20)
    found = moving.register(images)
    torch.testing.assert_close(made[:, 0], images[:, 1] - found.warped[0][:, 0])
    torch.testing.assert_close(made[:, 1], found.logits[:, 0].sigmoid())
    assert torch.equal(made[:, 2:], images[:, :2])
    without = unet(3, registration=moving, with_map=False).streams(images)
    assert torch.equal(without, made[:, [0, 2, 3]])


def test_what_has_no_counterpart_is_not_moved():
    """Where the map is above the cut the difference is that of the visits as they are."""
    images = slab()
    moving = with_field(registration(), [0.0, 2.0, 0.0])
    marked = moving.eval().register(images).logits.sigmoid()
    cut = float(marked.median())
    difference = unet(registration=moving, cut=cut).streams(images)[:, :1]
    torch.testing.assert_close(difference[marked > cut], images[:, 2:][marked > cut])
    warped = images[:, 1:2] - moving.register(images).warped[0]
    torch.testing.assert_close(difference[marked <= cut], warped[marked <= cut])
    assert not torch.allclose(difference[marked <= cut], images[:, 2:][marked <= cut])


def test_the_registration_is_frozen():
    network = unet(registration=registration()).train()
    assert network.training and not network.registration.training
    network(slab()).sum().backward()
    for name, weight in network.named_parameters():
        frozen = name.startswith("registration.")
        assert (weight.grad is None) == frozen == (not weight.requires_grad), name


def test_the_unet_has_one_first_block_per_image():
    for network, images in ((unet(registration=registration()), 4), (unet(3), 3)):
        assert len(network.encoder.first) == images
        assert all(block[0].in_channels == 1 for block in network.encoder.first)


def test_bad_settings_and_slabs():
    for bad in (
        lambda: registration(resolutions=2),
        lambda: registration(prior=0.0),
        lambda: unet(prior=1.0),
        lambda: unet(3, registration=registration()),
        lambda: StreamUNet(3, 2, [4], DECODER, 0.0, 0.1),
    ):
        with pytest.raises(ValueError, match=r"fit|prior|expected"):
            bad()
    for network in (registration(), unet(3)):
        with pytest.raises(MssegError, match="halved"):
            network(torch.rand(1, 3, 3, 16, 18))
        with pytest.raises(MssegError, match="number of images"):
            network(torch.rand(1, 2, 3, 16, 16))

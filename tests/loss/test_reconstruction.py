import pytest
import torch

from msseg_lightning.loss.reconstruction import Reconstruction


def test_values_by_hand():
    images = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 1, 2, 2)
    clean = torch.tensor([1.0, 1.0, 1.0, 2.0]).view(1, 1, 1, 2, 2)
    region = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 1, 1, 2, 2)
    target = torch.cat([clean, region], dim=1)
    # differences 0 1 2 4: mean 7/4; within the region (2 + 4) / 2 = 3
    assert float(Reconstruction("l1", 0.0)(images, target)) == pytest.approx(1.75)
    assert float(Reconstruction("l1", 2.0)(images, target)) == pytest.approx(1.75 + 6)
    # squares 0 1 4 16: mean 21/4; within the region 10
    assert float(Reconstruction("l2", 1.0)(images, target)) == pytest.approx(5.25 + 10)
    assert float(Reconstruction("l1", 2.0)(images, clean)) == pytest.approx(1.75)


def test_a_batch_without_region_and_half_precision():
    images = torch.full((2, 1, 4, 4, 4), 2.0, dtype=torch.float16, requires_grad=True)
    target = torch.zeros(2, 2, 4, 4, 4)
    value = Reconstruction()(images, target)
    assert float(value) == 2 and value.dtype == torch.float32
    value.backward()
    assert bool(torch.isfinite(images.grad).all())


def test_what_it_refuses():
    with pytest.raises(ValueError, match="l1"):
        Reconstruction("huber")
    with pytest.raises(ValueError, match="target"):
        Reconstruction()(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 2, 4, 4, 4))

import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.train.voxel_size import VoxelSizeTask


class Times(nn.Module):
    """Images times the third edge of the voxels."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, images, spacing_mm):
        return self.one * images * spacing_mm[:, 2].view(-1, 1, 1, 1, 1)


def test_the_network_is_given_the_voxels_of_each_patch():
    task = VoxelSizeTask(Times(), nn.MSELoss(), torch.optim.SGD)
    images = torch.ones(2, 1, 2, 2, 2)
    spacing = torch.tensor([[1.0, 1.0, 3.0], [1.0, 1.0, 0.5]])
    target = torch.stack([torch.full((1, 2, 2, 2), 3.0), torch.full((1, 2, 2, 2), 1.5)])
    batch = Batch(images, target, ("a", "b"), torch.ones(2), {"spacing_mm": spacing})
    assert task.step(batch).loss == 0.5  # (0 + 1) / 2

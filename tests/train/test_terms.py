"""Every term of a loss is logged, and their sum descended."""

from __future__ import annotations

import torch
from torch import nn

from msseg_lightning.core.batch import Batch
from msseg_lightning.train.terms import LoggedTerms


class Loss(nn.Module):
    def parts(self, output, target):
        return {"near": (output - target).square().mean(), "small": 0.5 * output.abs().mean()}


def test_the_terms_are_logged_and_add_up():
    network = nn.Conv3d(1, 1, 1)
    task = LoggedTerms(network, Loss(), torch.optim.Adam)
    images = torch.rand(2, 1, 2, 3, 4)
    answer = task.step(Batch(images, 1 - images, ("a", "b"), torch.ones(2)))
    expected = Loss().parts(network(images), 1 - images)
    assert set(answer.logs) == {"near", "small"}
    for name, value in expected.items():
        torch.testing.assert_close(answer.logs[name], value)
    torch.testing.assert_close(answer.loss, expected["near"] + expected["small"])
    answer.loss.backward()
    assert network.weight.grad is not None

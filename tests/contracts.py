"""What every network and loss must do, applied to every preset by ``test_contracts.py``."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from msseg_lightning.core.network import DeepLogits


def finest(output: Tensor | DeepLogits) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def check_network(network: nn.Module, images: Tensor, outputs: int = 1) -> None:
    """Shape, determinism, independence of patches, gradients everywhere, safe to copy and save.

    Args:
        network: the network under test.
        images: (2, C, X, Y, Z), two different patches of a legal size.
        outputs: logits per voxel; the first is that of the new lesions.
    """
    shape = (2, outputs, *images.shape[2:])
    network.train()
    output = network(images)
    assert tuple(finest(output).shape) == shape
    if isinstance(output, DeepLogits):
        for coarse, before in zip(output.deeper, (output.logits, *output.deeper), strict=False):
            assert all(c <= b for c, b in zip(coarse.shape[2:], before.shape[2:], strict=True))
        total = finest(output).square().mean() + sum(o.square().mean() for o in output.deeper)
    else:
        total = output.square().mean()
    total.backward()
    missing = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not missing, f"no gradient reaches {missing[:5]}"
    network.zero_grad()

    network.eval()
    with torch.no_grad():
        logits = network(images)
        assert isinstance(logits, Tensor), "evaluation returns plain logits"
        assert tuple(logits.shape) == shape and bool(torch.isfinite(logits).all())
        torch.testing.assert_close(network(images), logits)
        alone = torch.cat([network(images[:1]), network(images[1:])])
        torch.testing.assert_close(alone, logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(copy.deepcopy(network)(images), logits)
    names = list(network.state_dict())
    assert len(names) == len(set(names))
    pointers = [weight.data_ptr() for weight in network.parameters()]
    assert len(pointers) == len(set(pointers)), "shared weights cannot be saved as safetensors"


def check_loss(loss: nn.Module, resolutions: int = 1) -> None:
    """Finite on everything a patch can be, in float32 whatever the logits, better when righter.

    Args:
        loss: ``(logits, target) -> scalar``.
        resolutions: how many outputs of a deeply supervised network it takes; 1 is plain logits.
    """
    generator = torch.Generator().manual_seed(0)
    lesion = torch.zeros(2, 1, 8, 8, 8)
    lesion[0, :, 2:5, 2:5, 2:5] = 1
    targets = {
        "no lesion": torch.zeros_like(lesion),
        "all lesion": torch.ones_like(lesion),
        "one of two": lesion,
        "raters disagree": lesion * 0.25,
    }
    random = torch.randn(lesion.shape, generator=generator)
    for name, target in targets.items():
        for scale in (0.0, 1.0, 100.0, 1e4):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                logits = (random * scale).to(dtype).requires_grad_()
                value = loss(logits, target)
                assert value.ndim == 0 and value.dtype == torch.float32, (name, dtype)
                assert bool(torch.isfinite(value)), (name, scale, dtype)
                (slope,) = torch.autograd.grad(value, logits)
                assert bool(torch.isfinite(slope).all()), (name, scale, dtype)
    right, blind = (lesion * 2 - 1) * 8, torch.full_like(lesion, -8.0)
    assert loss(right, lesion) < loss(blind, lesion)
    torch.testing.assert_close(loss(random, lesion), loss(random.flip(2), lesion.flip(2)))
    if resolutions > 1:
        shrink = nn.functional.max_pool3d
        deeper = tuple(shrink(random, 2**level) for level in range(1, resolutions))
        value = loss(DeepLogits(random, deeper), lesion)
        assert value.ndim == 0 and bool(torch.isfinite(value))

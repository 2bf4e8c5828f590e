import pytest
import torch

from msseg_lightning.loss.self_supervised import PairReconstruction
from msseg_lightning.network.correlation_unet import PairAutoencoder, Reconstruction


def test_the_value_by_hand():
    # drawn again 1 too bright at the baseline, 2 at the follow-up; features 3 apart, then 1 apart
    images = torch.zeros(1, 2, 2, 2, 2)
    drawn = images.clone()
    drawn[:, 0], drawn[:, 1] = 1.0, 2.0
    zeros = (torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 8, 1, 1, 1))
    others = (torch.full((1, 4, 2, 2, 2), 3.0), torch.full((1, 8, 1, 1, 1), -1.0))
    output = Reconstruction(drawn, images, zeros, others)
    # 1 + 4 + (9 + 1); each level counts as one whatever its size
    assert float(PairReconstruction()(output)) == 15
    assert float(PairReconstruction(0.5)(output, torch.ones(1, 0, 2, 2, 2))) == 10


def test_half_precision_is_summed_in_full():
    big = torch.full((1, 2, 2, 2, 2), 300.0, dtype=torch.float16)
    output = Reconstruction(big, torch.zeros_like(big), (big,), (torch.zeros_like(big),))
    value = PairReconstruction()(output)
    assert value.dtype == torch.float32 and float(value) == pytest.approx(270_000)


def smooth(seed, shape=(2, 1, 16, 16, 16)):
    coarse = torch.randn(
        (*shape[:2], *(edge // 4 for edge in shape[2:])),
        generator=torch.Generator().manual_seed(seed),
    )
    return torch.nn.functional.interpolate(coarse, size=shape[2:], mode="trilinear")


def pair(seed):
    """Two scans of the same tissue: the second is noisier, brighter and of another contrast."""
    tissue = smooth(seed)
    noise = torch.randn(tissue.shape, generator=torch.Generator().manual_seed(seed + 1000))
    return torch.cat([tissue, 0.8 * tissue + 0.3 + 0.2 * noise], dim=1)


def test_pretraining_halves_the_distance_of_features_of_stable_tissue():
    """On tissue nobody trained on, without the features merely shrinking, and drawn better."""
    torch.manual_seed(0)
    network, loss = PairAutoencoder([8, 16, 16]), PairReconstruction()
    held_out = pair(99)

    def measure():
        with torch.no_grad():
            drawn = network(held_out)
            parts = loss.parts(drawn)
            apart = sum(
                ((a - b).square().mean() / a.var()).item()
                for a, b in zip(drawn.first, drawn.second, strict=True)
            )
        return apart, float(parts["consistency"]), float(parts["baseline"] + parts["followup"])

    before = measure()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        loss(network(pair(step))).backward()
        optimizer.step()
    after = measure()
    assert after[0] < 0.5 * before[0], (before, after)
    assert after[1] < 0.5 * before[1], (before, after)
    assert after[2] < before[2], (before, after)

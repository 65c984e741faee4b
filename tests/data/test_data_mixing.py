from __future__ import annotations

import pytest
import torch

from senet.data import Mixing

N, CLASSES = 16, 5
LABELS = torch.arange(N) % CLASSES
LEVELS = torch.arange(N).float().view(N, 1, 1, 1).expand(N, 3, 8, 8).contiguous()
"""Image i has the value i everywhere, so a blend tells what it is made of."""


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_shares_follow_the_pixels(options):
    """The label's shares are the shares of the two images in the pixels."""
    for batch in range(10):
        images, shares = Mixing(CLASSES, **options)(LEVELS, LABELS, (0, batch))
        assert images.shape == LEVELS.shape
        assert shares.shape == (N, CLASSES)
        assert torch.allclose(shares.sum(1), torch.ones(N))
        one_hot = torch.eye(CLASSES)
        mean = images.mean((1, 2, 3))
        for i in range(1, N):  # image i is blended with image i - 1
            part = i - mean[i]
            expected = (1 - part) * one_hot[LABELS[i]] + part * one_hot[LABELS[i - 1]]
            assert torch.allclose(shares[i], expected, atol=1e-4)


def test_cutmix_cuts_and_mixup_blends():
    cut, _ = Mixing(CLASSES, cutmix=1.0)(LEVELS, LABELS, (0, 0))
    assert set(cut.unique().tolist()) <= set(range(N))
    blended, _ = Mixing(CLASSES, mixup=1.0)(LEVELS, LABELS, (0, 0))
    assert torch.equal(blended.amax((1, 2, 3)), blended.amin((1, 2, 3)))


def test_both_ways_are_taken():
    mixing = Mixing(CLASSES, mixup=1.0, cutmix=1.0)
    flat = [torch.equal(x.amax((1, 2, 3)), x.amin((1, 2, 3))) for x in
            (mixing(LEVELS, LABELS, (0, batch))[0] for batch in range(40))]  # fmt: skip
    assert 8 < sum(flat) < 32


def test_repeats_by_key_and_seed_and_leaves_randomness_alone():
    before = torch.get_rng_state()

    def derive_seed(seed: int, key: tuple[int, int]) -> torch.Tensor:
        return Mixing(CLASSES, mixup=1.0, seed=seed)(LEVELS, LABELS, key)[0]

    first = derive_seed(0, (0, 3))
    assert torch.equal(first, derive_seed(0, (0, 3)))
    for other in (derive_seed(0, (1, 3)), derive_seed(0, (0, 4)), derive_seed(1, (0, 3))):
        assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [{}, {"mixup": -0.1}, {"mixup": 1.0, "cutmix": -1.0}])
def test_wrong_strengths(options):
    with pytest.raises(ValueError, match="neither may be negative, nor both 0"):
        Mixing(CLASSES, **options)

"""Each placement against its equation, with numbers that no two placements share."""

from __future__ import annotations

import pytest
import torch

from senet.nn import PLACEMENTS

# Nothing here commutes: the branch adds, the block changes the sign of some and not of all, the activation cuts.
X = torch.tensor([-2.0, 1.0, 3.0])
FACTOR = torch.tensor([2.0, -1.0, 0.5])


def relu(x):
    return x.clamp(min=0)


def shortcut(x):
    return 5 * x


def se(x):
    return FACTOR * x


def branch(x, inner=lambda hidden: hidden):
    return 2 - inner(3 * x + 1)


EXPECTED = {
    "standard": relu(5 * X + FACTOR * (2 - (3 * X + 1))),
    "pre": relu(5 * X + (2 - (3 * FACTOR * X + 1))),
    "post": FACTOR * relu(5 * X + (2 - (3 * X + 1))),
    "identity": relu(FACTOR * 5 * X + (2 - (3 * X + 1))),
    "conv3x3": relu(5 * X + (2 - FACTOR * (3 * X + 1))),
}


def test_every_placement_has_its_equation_and_no_two_agree():
    assert set(EXPECTED) == set(PLACEMENTS)
    assert len({tuple(value.tolist()) for value in EXPECTED.values()}) == len(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_placement_is_its_equation(name):
    torch.testing.assert_close(PLACEMENTS[name].apply(X, branch, shortcut, se, relu), EXPECTED[name])


@pytest.mark.parametrize("name", PLACEMENTS)
def test_site_has_the_channels_that_the_block_meets(name):
    """A block of 4 -> 8 channels with 2 inside: the block is only ever called with the width its site names."""
    met = []

    def block(x):
        met.append({4: "in", 8: "out", 2: "inner"}[x.shape[1]])
        return x

    def narrow(x, inner=lambda hidden: hidden):
        return inner(x[:, :2]).repeat(1, 4)

    out = PLACEMENTS[name].apply(torch.ones(1, 4), narrow, lambda x: x.repeat(1, 2), block, relu)
    assert out.shape == (1, 8)
    assert met == [PLACEMENTS[name].channels_of]

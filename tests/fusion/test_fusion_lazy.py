"""The scale of a block's attention is left to the first convolution of the next block."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.fusion.gated_chain import GatedChain
from senet.fusion.lazy import ScaledFeatureMap
from senet.ops import choose

needs_kernel = pytest.mark.skipif(choose().library is None, reason="no compiled kernel here")


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    model = senet.create_model("se_mobilenet_v1_025", num_classes=5).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.2, 1.0)
    return model, senet.optimize(model)[0]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@needs_kernel
def test_blocks_leave_their_scale_to_the_next(networks: tuple[nn.Module, nn.Module], images: Tensor) -> None:
    _, fast = networks
    chains = [m for m in fast.modules() if isinstance(m, GatedChain)]
    assert [chain.leaves_scale for chain in chains] == [True] * 12 + [False]  # the last one's reader is the pool
    seen: list[type] = []
    watched = copy.deepcopy(fast)
    for chain in (m for m in watched.modules() if isinstance(m, GatedChain)):
        chain.register_forward_hook(lambda _m, _x, y: seen.append(type(y)))
    with torch.inference_mode():
        found = watched(images)
    assert seen.count(ScaledFeatureMap) == 12
    with torch.inference_mode():
        assert torch.equal(found, fast(images))


@needs_kernel
@pytest.mark.parametrize("mode", ["inference mode", "no gradients", "gradients"])
def test_a_block_alone_gives_its_feature_map(networks: tuple[nn.Module, nn.Module], mode: str) -> None:
    model, fast = networks
    found: dict[nn.Module, Tensor] = {}
    for network in networks:
        block = next(m for m in network.modules() if type(m).__name__ == "SeparableBlock")
        x = torch.rand(1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode(mode == "inference mode"), torch.set_grad_enabled(mode == "gradients"):
            found[network] = block(x.requires_grad_() if mode == "gradients" else x)
    expected, y = found[model], found[fast]
    assert y.shape == expected.shape
    torch.testing.assert_close(y.detach().clone(), expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y[0, 3] + 1, expected[0, 3] + 1, rtol=1e-4, atol=1e-5)
    if mode == "gradients":
        assert y.requires_grad


@needs_kernel
def test_what_is_done_with_tensors_works(networks: tuple[nn.Module, nn.Module]) -> None:
    fast = networks[1]
    block = next(m for m in fast.modules() if type(m).__name__ == "SeparableBlock")
    with torch.no_grad():
        y = block(torch.rand(1, 8, 16, 16))
        assert type(y) is ScaledFeatureMap
        plain = y.read()
        for same in (copy.deepcopy(y), y.numpy(), y.cpu(), y.data, torch.cat([y]), y.to(torch.float64)):
            torch.testing.assert_close(torch.as_tensor(same, dtype=torch.float32), plain)
        file = io.BytesIO()
        torch.save(y, file)
        file.seek(0)
        assert torch.equal(torch.load(file), plain)
        y.mul_(2)
        assert torch.equal(y + 0, plain)  # `plain` is the map itself, changed in place
        assert "tensor(" in repr(y)


@needs_kernel
@pytest.mark.parametrize("way", ["hook", "other reader", "autocast", "vmap", "export", "gradients", "mixed types"])
def test_the_network_stays_right(networks: tuple[nn.Module, nn.Module], images: Tensor, way: str) -> None:
    model, fast = networks[0], copy.deepcopy(networks[1])
    with torch.no_grad():
        expected = model(images)
    blocks = [m for m in fast.modules() if type(m).__name__ == "SeparableBlock"]
    tolerance = 1e-4
    if way == "hook":
        seen: list[Tensor] = []
        blocks[2].register_forward_hook(lambda _m, _x, y: seen.append(y + 0))
        blocks[3].register_forward_pre_hook(lambda _m, x: (x[0] * 1,))
        with torch.no_grad():
            found = fast(images)
        assert seen[0].count_nonzero()
    elif way == "other reader":  # a convolution of PyTorch in place of the fused one
        chain_reader = blocks[4].depthwise[0]
        blocks[4].depthwise[0] = chain_reader.dense()
        with torch.no_grad():
            found = fast(images)
    elif way == "autocast":
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found, expected, tolerance = fast(images).float(), model(images).float(), 0.1
    elif way == "vmap":
        found = torch.vmap(fast)(images[:, None])[:, 0]
    elif way == "export":
        with torch.no_grad():
            found = torch.export.export(fast, (images,)).module()(images)
    elif way == "gradients":
        x = images.clone().requires_grad_()
        found = fast(x)
        y = images.clone().requires_grad_()
        model(y).square().sum().backward()
        found.square().sum().backward()
        assert x.grad is not None
        assert y.grad is not None
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-4)
        found = found.detach()
    else:
        blocks[5] = blocks[5].double()
        with torch.no_grad(), pytest.raises(RuntimeError, match="type"):
            fast(images)
        return
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)

"""The derivative of the mean: a view of (N, C) numbers, in the type and memory format of the feature map."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from senet.models.stages import Head
from senet.nn import ECA, ESE, GE, SE, SqueezeExcite, squeeze
from senet.nn.squeeze import average, mean

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Layers that average a whole feature map, with nothing else of its size in their derivative but sums and products.
LAYERS = {"se": SE(reduction=4), "eca": ECA(), "ese": ESE(), "ge-global": GE(extent=0, learned_gather=False)}


@pytest.fixture(autouse=True)
def _small_maps_too(monkeypatch):
    monkeypatch.setattr(squeeze, "MIN_ELEMENTS", 0)


class Written(TorchDispatchMode):
    """Records the tensors that operators write: (operator, elements, type). Views write nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int, torch.dtype]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in given:
                self.found.append((str(func), t.numel(), t.dtype))
        return result


def feature_map(dtype=torch.float32, layout="channels_last", shape=(2, 16, 6, 5)) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [(2, 3), (1,)], ids=["space", "channels"])
@pytest.mark.parametrize("keepdim", [False, True])
def test_the_backward_pass_writes_no_map(dtype, dim, keepdim):
    inner = feature_map(dtype) * 1
    y = average(inner, dim, keepdim=keepdim)
    with Written() as written:
        (slope,) = torch.autograd.grad(y, inner, torch.ones_like(y))
    assert max(count for _, count, _ in written.found) == y.numel()
    assert slope.dtype == dtype
    assert slope.shape == inner.shape
    assert torch.equal(slope, torch.full_like(slope, 1 / prod(inner.shape[d] for d in dim)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_keep_the_type_and_the_memory_format(name, dtype, layout):
    layer = LAYERS[name].build(16).to(dtype)
    inner = feature_map(dtype, layout) * 1
    y = layer(inner)
    slope = (feature_map(dtype, layout) + 1).detach()
    with Written() as written:
        (found,) = torch.autograd.grad(y, inner, slope)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=LAYOUTS[layout])
    # Two products of the scale, and the sum of both branches if it isn't in place.
    assert sum(count == inner.numel() for _, count, _ in written.found) <= 3
    assert {kind for _, count, kind in written.found if count == inner.numel()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_no_map_is_float32(dtype):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), SqueezeExcite(16, 4), nn.ReLU(), Head(16, 4))
    net.to(memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []
    for layer in (net[0], net[2]):
        layer.register_forward_hook(lambda _, __, output: (output.register_hook(seen.append), None)[1])
    images = torch.randn(2, 3, 8, 7).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype):
        loss = net(images).square().sum()
    with Written() as written:
        loss.backward()
    size = 2 * 16 * 6 * 5
    assert {kind for _, count, kind in written.found if count == size} == {dtype}
    assert [slope.dtype for slope in seen] == [dtype, dtype]
    assert seen[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 3e-2)])
def test_gradients_are_those_in_float64(name, dtype, tolerance):
    torch.manual_seed(0)
    exact, x = LAYERS[name].build(16).to(torch.float64), feature_map(dtype).detach()

    def slopes(layer, x):
        x = x.requires_grad_()
        return torch.autograd.grad(layer(x).square().mean(), [x, *layer.parameters()], allow_unused=True)

    wanted = slopes(exact, x.double())
    found = slopes(exact.to(dtype), x)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


def test_it_is_the_derivative_of_the_mean():
    x = feature_map(torch.float64, shape=(2, 3, 4, 3))
    for dim in ((2, 3), (1,)):
        for keepdim in (False, True):
            of = torch.autograd.grad(average(x, dim, keepdim=keepdim).square().sum(), x)[0]
            plain = torch.autograd.grad(x.mean(dim, keepdim).square().sum(), x)[0]
            torch.testing.assert_close(of, plain, rtol=1e-12, atol=0)
    curved = lambda x: (x * torch.sigmoid(mean(x))[:, :, None, None]).square()  # noqa: E731
    assert torch.autograd.gradcheck(curved, (x,), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(curved, (x,))


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 4, 3), (2, 3, 2, 3, 4), (0, 3, 4, 3)], ids=str)
def test_any_rank_and_an_empty_batch(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    mean(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / max(1, prod(shape[2:]))))


def test_function_transforms():
    layer, x = SqueezeExcite(16, 4).double(), feature_map(torch.float64).detach()
    weights = dict(layer.named_parameters())

    def loss(weights, image):
        return torch.func.functional_call(layer, weights, (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss, argnums=1), (None, 0))(weights, x)
    alone = [torch.autograd.grad(loss(weights, image), image)[0] for image in x.clone().requires_grad_().unbind()]
    torch.testing.assert_close(each, torch.stack(alone), rtol=1e-9, atol=1e-12)
    forward = torch.func.jacfwd(lambda x: mean(x))(x)
    torch.testing.assert_close(forward, torch.func.jacrev(lambda x: mean(x))(x))
    batched = torch.autograd.grad(
        mean(y := x.requires_grad_()), y, torch.eye(32, dtype=torch.float64).view(32, 2, 16), is_grads_batched=True
    )[0]
    torch.testing.assert_close(batched.view(2, 16, *x.shape), forward)


def test_compiled_traced_and_exported(tmp_path):
    layer, x = SqueezeExcite(16, 4), feature_map().detach()
    expected = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    slopes = [torch.autograd.grad(f(y := x.clone().requires_grad_()).square().sum(), y)[0] for f in (layer, compiled)]
    torch.testing.assert_close(*slopes)
    torch.jit.trace(layer, x).save(str(tmp_path / "traced.pt"))  # a Python function couldn't be saved
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "traced.pt"))(x), expected)
    program = torch.export.export(layer, (x,))
    assert all(node.target.namespace == "aten" for node in program.graph.nodes if hasattr(node.target, "namespace"))
    torch.testing.assert_close(program.module()(x), expected)


def test_recomputing_saves_and_gives_the_same():
    layer, x = SqueezeExcite(16, 4), feature_map()
    plain = torch.autograd.grad(layer(x).square().sum(), x)[0]
    again = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    assert torch.equal(plain, torch.autograd.grad(again.square().sum(), x)[0])


@pytest.mark.parametrize(("side", "own"), [(31, False), (32, True)])
def test_small_maps_have_the_derivative_of_pytorch(monkeypatch, side, own):
    monkeypatch.undo()
    x = torch.rand(2, 16, side, side, requires_grad=True)
    y = mean(x)
    assert ("Average" in y.grad_fn.name()) is own
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.full_like(x, 1 / side**2))

"""Two processes with half of each batch are one with the whole, in float64, where nothing but rounding is left."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processes import both
from torch import Tensor, nn

import senet
from senet.training import batch_norm_kernels
from senet.training.batch_norm_kernels import Definition
from senet.training.sync_batchnorm import SyncBatchNormPlugin

STEPS, BATCH, LR = 12, 12, 0.1
timm = pytest.importorskip("timm")


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(STEPS, BATCH, 3, 16, 16, generator=draw, dtype=torch.float64)
    return list(zip(images, torch.randint(10, (STEPS, BATCH), generator=draw), strict=True))


class Halved(nn.BatchNorm2d):
    """A norm of somebody's own."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


def whose(kind: str) -> nn.Module:
    """A network with the norms of this package, of timm with activation and drop, or of a user."""
    if kind == "ours":
        return senet.create_model("se_cifar_resnet20", num_classes=10, depth=1)
    norm: dict[str, nn.Module] = {
        "timm": timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU, drop_layer=lambda: nn.Hardtanh(-2, 2)),
        "user": Halved(8),
        "no statistics": nn.BatchNorm2d(8, affine=False, track_running_stats=False),
        "all batches": nn.BatchNorm2d(8, momentum=None),
    }
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm[kind], nn.Flatten(), nn.Linear(8 * 14 * 14, 10))


KINDS = ("ours", "timm", "user", "no statistics", "all batches")


def built(kind: str = "ours") -> nn.Module:
    torch.manual_seed(1)
    model = whose(kind)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:  # a gamma of zero would hide its branch
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.double()


def trained(model: nn.Module, rank: int, world: int) -> dict[str, Any]:
    """Losses of this process's share, and where the weights and statistics end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    losses = []
    for images, labels in batches():
        loss = F.cross_entropy(model(images[rank::world]), labels[rank::world])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = {key.removeprefix("module."): value.clone() for key, value in model.state_dict().items()}
    return {"losses": losses, "state": state}


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {}
    for norms in (*KINDS, "own"):
        model = built("ours" if norms == "own" else norms)
        if norms != "own":
            SyncBatchNormPlugin().apply(model)
        found[norms] = trained(nn.parallel.DistributedDataParallel(model), rank, 2)
    found["unequal"] = unequal(rank)
    found["GPU"] = as_on_a_gpu(rank)
    for order in (("accelerate", "synchronize"), ("synchronize", "accelerate")):
        found[order[0] + " first"] = accelerated(order, rank)
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def sizes() -> list[Tensor]:
    """Images of other sizes in each process, as detectors have them."""
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((2, 8, 5, 7), (3, 8, 4, 4))]


def unequal(rank: int) -> dict[str, Any]:
    norm = built("timm")[1]  # type: ignore[index]
    SyncBatchNormPlugin().apply(norm)
    x = sizes()[rank].requires_grad_()
    y = norm(x)
    (y * y.detach().cos()).sum().backward()
    return {"y": y.detach(), "dx": x.grad, "state": norm.state_dict()}


def accelerated(order: Sequence[str], rank: int, world: int = 2) -> dict[str, Any]:
    """One step of a network that `senet.accelerate` has changed, before its norms or after."""
    torch.manual_seed(2)
    norm, attention = nn.BatchNorm2d(16), senet.SqueezeExcite(16, reduction=4)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), norm, nn.ReLU(), attention, nn.AdaptiveAvgPool2d(1))
    fused = 0
    for step in order:
        if step == "accelerate":
            fused = len(senet.accelerate(model, torch.rand(1, 3, 32, 32)).fused)
        elif world > 1:
            SyncBatchNormPlugin().apply(model)
    images = torch.rand(12, 3, 32, 32) * torch.arange(1, 13).view(-1, 1, 1, 1)
    x = images[rank::world].requires_grad_()
    y = model(x)
    (y * y.detach().cos()).sum().backward()
    return {"fused": fused, "y": y.detach(), "dx": x.grad, "mean": norm.running_mean, "var": norm.running_var}


def as_on_a_gpu(rank: int) -> dict[str, Any]:
    """The same by PyTorch's operators, which have no CPU kernels of their own and get the definition here."""
    calls: list[str] = []

    def counted(name: str) -> Any:
        def kernel(*given: Any) -> Any:
            calls.append(name)
            return getattr(Definition, name)(*given)

        return kernel

    library = torch.library.Library("aten", "IMPL")
    for name in (name for name in vars(Definition) if name.startswith("batch_norm")):
        library.impl(name, counted(name), "CPU")
    before, batch_norm_kernels.FUSED = batch_norm_kernels.FUSED, ("cpu",)  # type: ignore[misc]
    try:
        return unequal(rank) | {"calls": calls}
    finally:
        batch_norm_kernels.FUSED = before  # type: ignore[misc]
        library._destroy()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found, with shared norms and with its own."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    both(process, port, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def common(of_two: list[dict[str, Any]], norms: str) -> list[float]:
    return [sum(pair) / 2 for pair in zip(*(found[norms]["losses"] for found in of_two), strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(of_two: list[dict[str, Any]], kind: str) -> None:
    of_one = trained(built(kind), 0, 1)
    losses = common(of_two, kind)
    assert max(losses) - min(losses) > 0.1, "it learns"
    assert losses == pytest.approx(of_one["losses"], abs=1e-9)
    for found in of_two:
        for key, value in of_one["state"].items():
            assert torch.allclose(found[kind]["state"][key], value, rtol=0, atol=1e-9), key


def test_norms_of_each_process_for_itself_are_something_else(of_two: list[dict[str, Any]]) -> None:
    assert abs(common(of_two, "own")[0] - trained(built(), 0, 1)["losses"][0]) > 1e-4


@pytest.mark.parametrize("how", ["unequal", "GPU"])
def test_unequal_batches_count_by_their_values(of_two: list[dict[str, Any]], how: str) -> None:
    norm = built("timm")[1]  # type: ignore[index]
    parts = [x.transpose(0, 1).flatten(1) for x in sizes()]
    whole = torch.cat(parts, 1)[None, :, :, None].requires_grad_()
    y = norm(whole)
    (y * y.detach().cos()).sum().backward()
    assert whole.grad is not None
    for name, tensor in (("y", y.detach()), ("dx", whole.grad)):
        for found, part in zip(of_two, tensor[0, :, :, 0].split([len(part[0]) for part in parts], 1), strict=True):
            assert torch.allclose(found[how][name].transpose(0, 1).flatten(1), part, rtol=0, atol=1e-9), name
    for found in of_two:
        for key, value in norm.state_dict().items():
            assert torch.allclose(found[how]["state"][key], value, rtol=0, atol=1e-9), key


@pytest.mark.parametrize("order", [("accelerate", "synchronize"), ("synchronize", "accelerate")])
def test_accelerated_norms_are_synchronized_too(of_two: list[dict[str, Any]], order: tuple[str, str]) -> None:
    alone = accelerated(("accelerate",), 0, 1)
    assert alone["fused"] == 1
    for rank, found in enumerate(of_two):
        mine = found[order[0] + " first"]
        assert mine["fused"] == 1
        for name in ("y", "dx", "mean", "var"):
            whole = alone[name][rank::2] if name in ("y", "dx") else alone[name]
            torch.testing.assert_close(mine[name], whole, rtol=1e-4, atol=1e-5)


def test_on_a_gpu_pytorchs_kernels_run(of_two: list[dict[str, Any]]) -> None:
    """The device of each input decides, since a network moves to its device after the norms are chosen."""
    kernels = [name for name in vars(Definition) if name.startswith("batch_norm")]
    assert [sorted(found["GPU"]["calls"]) for found in of_two] == [sorted(kernels)] * 2
    assert batch_norm_kernels.kernels(torch.device("cuda")) is torch.ops.aten


def test_the_norms_keep_all_that_is_theirs() -> None:
    norm = timm.layers.BatchNormAct2d(4)
    model = nn.Sequential(norm, nn.SyncBatchNorm(4), nn.LazyBatchNorm2d())
    calls: list[nn.Module] = []
    norm.register_forward_hook(lambda module, *_: calls.append(module))
    kinds, state = [type(module) for module in model], model.state_dict()
    plugin = SyncBatchNormPlugin()
    plugin.apply(model)
    assert isinstance(norm, kinds[0])
    assert [type(module) is kind for module, kind in zip(model, kinds, strict=True)] == [False, True, True]
    model[2](norm(torch.rand(2, 4, 3, 3)))
    kinds[2] = nn.BatchNorm2d
    assert calls == [norm]
    assert state.keys() == model.state_dict().keys()
    plugin.apply(model)
    plugin.revert(model)
    assert [type(module) for module in model] == kinds

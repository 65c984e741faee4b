"""A stage is a module that its network calls: hooks, a `forward` of one's own, compilation and sharding apply to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import senet
from senet.models import Backbone, Stage

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "residual": ("se_resnet50", {"depths": (1, 1)}),
    "preact": ("se_cifar_preresnet20", {"depth": 1}),
    "shake-shake": ("se_shake_shake26_2x96d", {"depth": 1, "widths": (16, 32)}),
    "densenet": ("se_densenet121", {"depths": (2, 2), "growth": 16}),
    "vgg": ("se_vgg11", {"depths": (1, 1), "hidden": 8}),
    "mobilenet": ("se_mobilenet_v1_025", {"depths": (1, 1, 1)}),
    "shufflenet": ("se_shufflenet_v1_g3", {"depths": (2, 1)}),
    "inception": ("se_bn_inception", {}),
    "inception_resnet": ("se_inception_resnet_v2", {}),
}
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 1])


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    name, options = NETWORKS[kind]
    return senet.create_model(name, num_classes=3, **options)


def images(kind: str) -> Tensor:
    return F.interpolate(IMAGES[:2], size=96) if kind.startswith("inception") else IMAGES[:2]


@torch.no_grad()
@pytest.mark.parametrize("whole", [True, False], ids=["network", "backbone"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_stage_is_called(kind: str, whole: bool) -> None:
    model = network(kind).eval()
    model = model if whole else Backbone(model)
    seen: list[str] = []
    for number, stage in model.stages.items():
        stage.register_forward_hook(lambda *_, number=number: seen.append(number))
    model(images(kind))
    assert seen == list(model.stages)


@torch.no_grad()
@pytest.mark.parametrize("whole", [True, False], ids=["network", "backbone"])
def test_what_was_put_in_the_place_of_a_stage_or_its_forward_is_used(whole: bool) -> None:
    model = network("preact").eval()
    model = model if whole else Backbone(model)
    model.stages["3"].forward = lambda x: x
    with pytest.raises(RuntimeError, match="should contain 16 elements"):  # those of stage 2 reach stage 4
        model(IMAGES)
    del model.stages["3"].forward
    expected = model(IMAGES)
    model.stages["3"] = nn.Sequential(*model.stages["3"])
    assert all(torch.equal(a, b) for a, b in zip(expected, model(IMAGES), strict=True))


@torch.no_grad()
def test_a_hook_on_a_stage_changes_its_output() -> None:
    model = network("residual").eval()
    last = list(model.stages.values())[-1]
    last.register_forward_hook(lambda _m, _a, output: output * 0)
    assert torch.equal(model(IMAGES), model.head.fc.bias.expand(4, 3))


def test_a_compiled_stage_is_used() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        compiled.append(1)
        return graph.forward

    model = network("residual").eval()
    with torch.no_grad():
        expected = model(IMAGES)
        model.stages["2"].compile(backend=backend)
        assert torch.allclose(model(IMAGES), expected, atol=1e-5)
    assert compiled


def test_a_part_of_a_stage_is_a_stage() -> None:
    stage = network("residual").stages["2"]
    assert isinstance(stage[:1], Stage)
    assert list(stage.state_dict()) == list(nn.Sequential(*stage).state_dict())


# Gradient checkpointing.


def step(model: nn.Module, run: Any = None) -> Tensor:
    torch.manual_seed(9)
    run = model if run is None else run
    loss = F.cross_entropy(run(IMAGES), LABELS)
    loss.backward()
    return loss.detach()


def assert_the_same(first: nn.Module, second: nn.Module, tolerance: float) -> None:
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.allclose(a, b, atol=tolerance, rtol=tolerance), name
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=tolerance, rtol=tolerance), name


def kept_for_backward(run: Any) -> int:
    """Numbers kept between the forward and the backward pass."""
    counts = [0]

    def count(tensor: Tensor) -> Tensor:
        counts[0] += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        run(IMAGES)
    return counts[0]


@pytest.mark.slow
def test_checkpointing_under_compile_saves_memory() -> None:
    torch._dynamo.reset()
    model = senet.create_model("se_cifar_resnet20", depth=1).train()
    kept = kept_for_backward(torch.compile(model, backend="aot_eager"))
    model.grad_checkpointing = True
    assert kept_for_backward(torch.compile(model, backend="aot_eager")) < kept / 2


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("residual", "aot_eager"),
        ("densenet", "aot_eager"),
        pytest.param("preact", "aot_eager", marks=pytest.mark.slow),  # by default below, block by block
        pytest.param("residual", "inductor", marks=pytest.mark.slow),
        pytest.param("mobilenet", "inductor", marks=pytest.mark.slow),
    ],
)
def test_checkpointing_under_compile(kind: str, backend: str) -> None:
    torch._dynamo.reset()
    plain = network(kind).train()
    recomputed = copy.deepcopy(plain)
    recomputed.grad_checkpointing = True
    run = torch.compile(recomputed, backend=backend, fullgraph=True)
    for _ in range(2):
        assert torch.allclose(step(plain), step(recomputed, run), rtol=1e-4)
    assert_the_same(plain, recomputed, 1e-3)
    counts = [v for k, v in recomputed.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 2 for count in counts)


def test_checkpointing_around_compiled_units() -> None:
    torch._dynamo.reset()
    plain = network("preact").train()
    recomputed = copy.deepcopy(plain)
    recomputed.grad_checkpointing = True
    for stage in recomputed.stages.values():
        for unit in stage:
            unit.compile(backend="aot_eager")
    for _ in range(2):
        assert torch.allclose(step(plain), step(recomputed), rtol=1e-4)
    assert_the_same(plain, recomputed, 1e-3)


def test_any_buffer_that_counts_runs_counts_once() -> None:
    class Counter(nn.Module):
        runs: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("runs", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return x

    model = network("residual").train()
    model.stages["2"].append(Counter())
    model.grad_checkpointing = True
    step(model)
    assert model.stages["2"][-1].runs == 1


def test_checkpointing_reaches_all_stages_or_none() -> None:
    model = network("preact")
    backbone = Backbone(model)
    model.grad_checkpointing = True
    assert backbone.grad_checkpointing
    assert all(stage.grad_checkpointing for stage in backbone.stages.values())
    model.grad_checkpointing = False
    model.stages["4"] = nn.Sequential(*model.stages["4"])
    with pytest.raises(senet.SenetError, match=r"stages.4 is a Sequential, which can't recompute"):
        model.grad_checkpointing = True
    assert not model.grad_checkpointing


# Sharding.


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def shard(model: nn.Module, per: str, mesh: Any = None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    for stage in model.stages.values():
        for unit in stage if per != "stage" else ():
            fully_shard(unit, mesh=mesh)
        if per != "block":
            fully_shard(stage, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@pytest.mark.parametrize("grad_checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("per", ["stage", "block", "both"])
@pytest.mark.parametrize("kind", ["residual", "densenet", "vgg"])
@pytest.mark.usefixtures("one_process")
def test_fully_shard(kind: str, per: str, grad_checkpointing: bool) -> None:
    plain = network(kind).train()
    sharded = copy.deepcopy(plain)
    shard(sharded, per)
    sharded.grad_checkpointing = grad_checkpointing
    assert torch.allclose(step(plain), step(sharded), rtol=1e-4)
    for (name, a), (other, b) in zip(plain.named_parameters(), sharded.named_parameters(), strict=True):
        assert name == other
        assert torch.allclose(a.grad, whole(b.grad), atol=1e-4, rtol=1e-3), name
    for (name, a), (_, b) in zip(plain.named_buffers(), sharded.named_buffers(), strict=True):
        assert torch.allclose(a, whole(b), atol=1e-5), name


@pytest.mark.usefixtures("one_process")
def test_fully_shard_of_a_backbone() -> None:
    backbone = Backbone(network("residual")).train()
    expected = copy.deepcopy(backbone)(IMAGES)
    shard(backbone, "stage")
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(expected, backbone(IMAGES), strict=True))


def _rank(rank: int, store: str, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = network("residual").eval()
    shard(model, "both")
    model(IMAGES[2 * rank : 2 * rank + 2]).sum().backward()
    gradient = {name: whole(p.grad) for name, p in model.named_parameters()}
    if rank == 0:
        results.put({name: tensor.numpy() for name, tensor in gradient.items()})
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_stages_and_units(tmp_path: Any) -> None:
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, str(tmp_path / "store"), results)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = results.get(timeout=120)
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    plain = network("residual").eval()
    (plain(IMAGES).sum() / 2).backward()  # the average over the processes
    for name, parameter in plain.named_parameters():
        assert torch.allclose(parameter.grad, torch.from_numpy(found[name]), atol=1e-3, rtol=1e-3), name

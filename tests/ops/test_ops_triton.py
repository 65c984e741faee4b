"""The Triton back end without a GPU: the interpreter in a process of its own, and the code compiled for GPUs."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from senet.ops import GATE_FUNCTIONS
from senet.ops.activation_functions import ACTIVATIONS

triton = pytest.importorskip("triton", reason="triton is not installed")
HERE = Path(__file__).parent
TARGETS = (80, 89, 90)
PASSES = {"_measure": 2, "_activated_sums": 1, "_apply": 0, "_residual_sums": 2, "_gated_sums": 5, "_input_gradient": 0}
"""The kernels that read feature maps, and how many rows of partial sums each writes."""

MODULES = ("moments", "activated_mean", "join", "apply", "residual_sums", "gated_sums", "gradient", "running")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process is the interpreter's")
def test_every_kernel_in_the_interpreter() -> None:
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    command = [sys.executable, "-m", "pytest", *options, str(HERE / "interpreted")]
    run = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=HERE.parent.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert re.search(r"\d\d passed", run.stdout), run.stdout


@pytest.mark.slow
def test_the_benchmark_needs_torch_only() -> None:
    """A GPU is often had for minutes, on a machine where nothing can be installed."""
    code = (
        "import runpy, sys; runpy.run_path('benchmarks/gpu.py', run_name='imported');"
        "print('MODULES', *{m.split('.')[0] for m in sys.modules}, sep='\\n')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE.parent.parent, capture_output=True, text=True, check=True
    )  # fmt: skip
    found = set(run.stdout.partition("MODULES")[2].split())
    assert "senet" in found
    assert not found & {
        "lightning",
        "timm",
        "torchvision",
        "torchmetrics",
        "safetensors",
        "PIL",
        "rich",
        "scipy",
        "yaml",
    }


@pytest.mark.slow
def test_the_benchmark_can_be_rehearsed(tmp_path: Path) -> None:
    cases = ("bandwidth", "inference", "memory", "CUDA graph")
    options = ["--rehearse", "--out", str(tmp_path / "gpu"), *(f"--only={case}" for case in cases)]
    run = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *options], cwd=HERE.parent.parent, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())["cases"]
    assert tuple(found) == cases
    assert not any("error" in figures for figures in found.values()), found
    assert "A rehearsal, not a measurement" in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (128, 256, 56, 56), (3, 130, 9, 7), (4096, 8, 300, 300), (1, 4096, 3000, 3000)], ids=str
)
def test_parts_cover_a_sample_once(shape: tuple[int, ...]) -> None:
    from senet.ops.triton.plan import PART, plan

    found = plan(torch.empty(shape, device="meta"))
    pixels, channels = shape[2] * shape[3], shape[1]
    assert (found.chunks - 1) * found.rows < pixels <= found.chunks * found.rows
    assert (found.panels - 1) * found.BLOCK_C < channels <= found.panels * found.BLOCK_C
    assert found.rows % found.BLOCK_R == 0
    assert found.rows * channels < 2 * PART


class Launch(NamedTuple):
    """A kernel, its arguments by name, and its constants."""

    kernel: Any
    arguments: dict[str, Any]
    constants: dict[str, Any]

    def compiled(self, capability: int) -> Any:
        """Compile as Triton would for these arguments on a GPU of this compute capability."""
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature, constants, attributes = self.special
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants, attrs=attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32))

    @property
    def key(self) -> str:
        """Equal for launches that Triton compiles once."""
        return f"{self.kernel.__name__} {self.special}"

    @property
    def special(self) -> tuple[dict[str, str], dict[Any, Any], dict[Any, Any]]:
        """The types, the constants and the divisibilities of the arguments."""
        signature, constants, attributes = {}, {}, {}
        for i, name in enumerate(self.kernel.arg_names):
            value = self.constants[name] if name in self.constants else self.arguments[name]
            special = name not in self.kernel.do_not_specialize
            if name in self.constants or value is None or (special and isinstance(value, int) and value == 1):
                signature[name] = "constexpr"
                constants[(i,)] = value
            elif isinstance(value, Tensor):
                signature[name] = "*" + TYPES[value.dtype]
                attributes[(i,)] = [["tt.divisibility", 16]]  # what PyTorch's allocator guarantees
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
                if special and value % 16 == 0:
                    attributes[(i,)] = [["tt.divisibility", 16]]
        return signature, constants, attributes


TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64"}


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What the steps launch, in place of launching it."""
    found: list[Launch] = []

    def record(kernel: Any, _programs: int, _on: Tensor, *arguments: Any, **constants: Any) -> None:
        names = [n for n in kernel.arg_names if n not in constants]
        found.append(Launch(kernel, dict(zip(names, arguments, strict=True)), constants))

    for name in MODULES:
        monkeypatch.setattr(import_module(f"senet.ops.triton.{name}"), "launch", record)
    return found


def residual(
    dtype: torch.dtype,
    *,
    se: bool,
    training: bool = True,
    channels: int = 256,
    shortcut: bool = True,
    affine: bool = True,
    gate: int = 0,
) -> None:
    from senet.ops.bn_se_add_relu import _gradients, _outputs
    from senet.ops.triton import step

    x, added = a_map(dtype, channels), a_map(dtype, channels) if shortcut else None
    norm = [torch.rand(channels) if affine or i > 1 else None for i in range(4)]
    layers = [torch.rand(s) for s in ((16, channels), (16,), (channels, 16), (channels,))] if se else [None] * 4
    outputs, options = _outputs(x, layers[0]), (training, 1e-5, gate)
    step.forward(x, added, [*norm, *layers], options, outputs)
    y = outputs[0] if shortcut else None
    gradients = _gradients(x, y, *norm[:2], *layers)
    step.backward((x, x, y, outputs[2]), [*norm, *layers], options, gradients)


def gated(
    dtype: torch.dtype, activation: int, *, training: bool = True, channels: int = 256, norm: bool = True
) -> None:
    from senet.ops.triton import gated_step as step

    x, vectors, z = a_map(dtype, channels), [torch.rand(channels) for _ in range(4)], torch.rand(4, channels)
    statistics, saved, sums = torch.rand(2, channels), torch.rand(3 * channels), torch.rand(5, 4, channels)
    options, given = (training, 1e-3, activation), vectors if norm else [None] * 4
    step.squeeze(x, given, options, (statistics, saved, z))
    step.scale(x, saved, z, given, options, x)
    step.sums(x, x, saved, given, options, sums)
    step.backward((x, x, saved, z, z, sums), given, options, (x, given[0], given[1]))


def others(dtype: torch.dtype) -> None:
    """Inference, running statistics, and a norm with its ReLU."""
    from senet.ops.triton import running, step
    from senet.ops.triton.plan import plan
    from senet.ops.triton.residual_sums import residual_sums

    x, v = a_map(dtype), torch.rand(256)
    step.rescale(x, torch.rand(4, 256), x)
    for batches in (torch.ones((), dtype=torch.int64), None):
        running.update_running(v, v, batches, torch.rand(2, 256), 0.1)
    residual_sums(x, x, None, torch.rand(3 * 256), v, v, None, 0, plan(x), None)


def a_map(dtype: torch.dtype, channels: int = 256) -> Tensor:
    return torch.zeros((4, channels, 56, 56), dtype=dtype).contiguous(memory_format=torch.channels_last)


CASES: dict[str, tuple[Callable[..., None], tuple[int, ...]]] = {
    "residual end, bfloat16": (lambda: residual(torch.bfloat16, se=True), TARGETS),
    "residual end, float32": (lambda: residual(torch.float32, se=True), (90,)),
    "residual end without a gate, in evaluation": (lambda: residual(torch.float16, se=False, training=False), (90,)),
    "gated, SiLU, bfloat16": (lambda: gated(torch.bfloat16, 3), TARGETS),
    "gated, GELU, float16": (lambda: gated(torch.float16, 5), (90,)),
    "gated, hard swish, float32": (lambda: gated(torch.float32, 4), (90,)),
    "the rest": (lambda: others(torch.float16), (90,)),
}


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize("case", CASES)
def test_compiled_for_gpus(case: str, launches: list[Launch], tmp_path: Path) -> None:
    """Each access to a feature map has 16 bytes and a 64-bit offset, nothing spills, and no kernel uses atomics."""
    run, targets = CASES[case]
    run()
    assert launches
    for launch in launches:
        for capability in targets:
            compiled = launch.compiled(capability).asm
            code, name = compiled["ptx"], launch.kernel.__name__
            assert not re.search(r"\b(atom|red)\.", code), name
            if name in PASSES:
                wide, narrow = accesses(code)
                assert wide["ld"] >= 2, (name, capability)
                assert not re.search(r"addptr .*: !tt\.ptr<b?f16>, i32", compiled["ttir"]), "parts need 64-bit offsets"
                assert narrow == {"ld": 0, "st": PASSES[name]}, (name, capability)
            assert spilled(code, tmp_path) == 0, (name, capability)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize("channels", [1, 17, 64])
def test_every_variant_is_compiled(channels: int, launches: list[Launch]) -> None:
    """Missing arguments and sizes of 1 are constants for the compiler, which the interpreter doesn't see."""
    for case in itertools.product((True, False), repeat=4):
        se, training, shortcut, affine = case
        residual(torch.bfloat16, se=se, training=training, shortcut=shortcut, affine=affine, channels=channels)
    for gate in range(len(GATE_FUNCTIONS)):
        residual(torch.float16, se=True, gate=gate, channels=channels)
    for activation in range(len(ACTIVATIONS)):
        gated(torch.float32, activation, channels=channels)
    gated(torch.float32, 1, training=False, channels=channels)
    gated(torch.float32, 1, training=False, norm=False, channels=channels)
    distinct = {launch.key: launch for launch in launches}
    assert len(distinct) > 50
    for launch in distinct.values():
        assert launch.compiled(90).asm["cubin"]


def accesses(code: str) -> tuple[dict[str, int], dict[str, int]]:
    """The numbers of loads and stores of 16 bytes in global memory, and of narrower ones."""
    found = re.findall(r"(ld|st)\.global\.(\S+)", code)
    return tuple(
        {kind: sum(k == kind and (w == "v4.b32") == wide for k, w in found) for kind in ("ld", "st")}
        for wide in (True, False)
    )  # type: ignore[return-value]


def spilled(code: str, folder: Path) -> int:
    """Bytes that the assembler spills from registers."""
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    file = folder / "kernel.ptx"
    file.write_text(code)
    target = re.search(r"^\.target (\w+)", code, re.MULTILINE)[1]  # type: ignore[index]
    command = [str(assembler), "-v", f"--gpu-name={target}", str(file), "-o", str(folder / "kernel.cubin")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    assert found, said
    return sum(map(int, found))

"""Runtimes for exported files, each as a function from an array of images to the arrays of a file's outputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from senet.deploy.extras import need
from senet.deploy.tracing import reason
from senet.errors import CheckpointError

__all__ = ["RUNTIMES"]

Run = Callable[[np.ndarray], Sequence[np.ndarray]]
"""(N, C, H, W) float32 -> the outputs, in the file's order."""


def _onnxruntime(path: Path, _: str, threads: int | None) -> Run:
    ort = need("onnxruntime", f"--runtime onnxruntime ({path.name})")
    options = ort.SessionOptions()
    options.log_severity_level = 3  # its warnings concern its own optimizer
    options.intra_op_num_threads = threads or torch.get_num_threads()
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own types, which derive from Exception only
        raise CheckpointError(f"{path}: onnxruntime can't load it ({reason(error)})") from error
    name = session.get_inputs()[0].name

    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        outputs: Sequence[np.ndarray] = session.run(None, {name: images})
        return outputs

    return run


def _openvino(path: Path, precision: str, threads: int | None) -> Run:
    ov = need("openvino", f"--runtime openvino ({path.name})")
    core = ov.Core()
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: openvino can't load it ({reason(error)})") from error
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _openvino_type(core, precision),
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }

    @lru_cache(maxsize=4)  # fixed shapes give faster code; a data set has two: full batches and the last one
    def request(shape: tuple[int, ...]) -> Any:
        fixed = model.clone()
        fixed.reshape(shape)
        return core.compile_model(fixed, "CPU", options).create_infer_request()

    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        made = request(images.shape)
        made.infer([images])
        return [np.array(made.get_output_tensor(number).data) for number in range(len(model.outputs))]

    return run


def _openvino_type(core: Any, precision: str) -> str:
    """Choose bf16 only where the CPU supports it, also for the float part of int8 files. Emulated bf16 is slow."""
    fast = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if precision in ("bf16", "int8") and fast else "f32"


def _torch(path: Path, _: str, threads: int | None) -> Run:
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # zipfile's, torch's and pickle's own types
        raise CheckpointError(f"{path}: torch can't load it ({reason(error)})") from error
    if threads is not None:
        torch.set_num_threads(threads)
    # It logs a line at each call with another batch size than the traced one.
    logging.getLogger("torch.export").setLevel(logging.ERROR)

    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            return [module(torch.from_numpy(images)).numpy()]

    return run


RUNTIMES: Final[Mapping[str, Callable[[Path, str, int | None], Run]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
}
"""Name to the function that opens a file: path, precision, threads (None: as many as PyTorch uses)."""

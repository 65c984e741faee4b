"""cuDNN's choice of algorithms and TF32. Both are settings of PyTorch, which a machine without a GPU has too."""

from __future__ import annotations

import warnings

import pytest
import torch

from senet.inference.backends import cuda_backends, describe_tf32

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


def settings() -> tuple[bool, bool, bool]:
    return (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )


@pytest.mark.parametrize("autotune", [False, True])
@pytest.mark.parametrize(("tf32", "expected"), [(None, (True, False)), (True, (True, True)), (False, (False, False))])
def test_it_sets_and_restores(autotune, tf32, expected):
    before = settings()
    assert before == (False, True, False)  # PyTorch's own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with cuda_backends(CUDA, autotune=autotune, tf32=tf32):
            assert settings() == (autotune, *expected)
            # Lightning reads it on each GPU.
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        assert settings() == before
        with pytest.raises(KeyError), cuda_backends(CUDA, autotune=autotune, tf32=tf32):
            raise KeyError
    assert settings() == before


def test_settings_of_the_user_are_restored():
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    try:
        with cuda_backends(CUDA, autotune=False, tf32=False):
            assert settings() == (False, False, False)
        assert settings() == (True, True, True)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = False


def test_other_devices_ignore_it():
    with cuda_backends(CPU, autotune=True, tf32=True):
        assert settings() == (False, True, False)


def test_no_setting_of_the_cpu_changes():
    before = [getattr(torch.backends.mkldnn, name).fp32_precision for name in ("conv", "matmul")]
    with cuda_backends(CUDA, autotune=True, tf32=True):
        assert [getattr(torch.backends.mkldnn, name).fp32_precision for name in ("conv", "matmul")] == before


@pytest.mark.parametrize(
    ("gpu", "supported", "matmul", "said"),
    [
        (False, False, False, "no effect, since there is no GPU with CUDA"),
        (True, False, False, "no effect, since Tesla V100 lacks it"),
        (True, True, False, "in training, unless --no-tf32; otherwise in convolutions"),
        (True, True, True, "in training, unless --no-tf32; otherwise in convolutions and matrix products"),
        (True, True, None, "in training, unless --no-tf32; otherwise in nothing"),
    ],
)
def test_doctor_states_it(monkeypatch, gpu, supported, matmul, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    with cuda_backends(CUDA, autotune=False, tf32={True: True, False: None, None: False}[matmul]):
        assert describe_tf32() == said

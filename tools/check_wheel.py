"""Check an installed wheel: the kernel loads (but on Windows), and a network with fused operators runs."""

from __future__ import annotations

import sys

import torch

import senet
from senet.ops import choose

if __name__ == "__main__":
    kernel = choose()
    print(f"senet {senet.__version__} in {senet.__file__}; kernel: {kernel.reason}")
    if kernel.library is None and sys.platform != "win32":
        sys.exit("the wheel has no kernel")
    model = senet.create_model("se_cifar_resnet20").train()
    senet.accelerate(model)
    model(torch.rand(2, 3, 32, 32)).sum().backward()

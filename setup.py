"""Builds the kernel in C beside the Python files; everything else stands in pyproject.toml."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

KERNELS = Path("src/senet/ops/cpu")
X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
SETS = {"baseline": []} | (
    {
        "avx2": ["-mavx2", "-mfma"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"],
    }
    if X86
    else {}
)
# Needs GCC or Clang 11 or newer; left out where it can't be compiled.
AMX = [*SETS["avx512"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16"] if X86 and sys.platform == "linux" else None
FLAGS = ["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
FLAGS += os.environ.get("SENET_CFLAGS", "").split()


class BuildKernel(build_ext):
    """One file of C, compiled once for each instruction set; a library that ctypes loads, without Python in it.

    Without a compiler that understands it, senet is installed without the kernel, and computes in plain PyTorch.
    """

    def get_ext_filename(self, fullname: str) -> str:
        """Where it stands: without Python's version in its name."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Compile, or say that it can't be done and go on."""
        try:
            self._build(ext)
        except Exception as error:
            self.warn(f"senet is installed without its compiled kernel (training is slower): {error}")

    def _build(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.unlink(missing_ok=True)  # rather none than that of another version
        objects = []
        for name, flags in SETS.items():
            objects += self._compiled(name, flags)
        options = [*FLAGS, *(["-DSENET_X86"] if X86 else [])]
        try:
            objects += [] if AMX is None else self._compiled("amx", AMX)
            options += [] if AMX is None else ["-DSENET_AMX"]
        except CompileError as error:
            self.warn(f"senet is installed without its kernel for AMX: {error}")
        objects += self.compiler.compile([str(KERNELS / "dispatch.c")], self.build_temp, extra_postargs=options)
        target.parent.mkdir(parents=True, exist_ok=True)
        sanitize = [flag for flag in FLAGS if flag.startswith("-fsanitize")]
        self.compiler.link_shared_object(objects, str(target), libraries=["m"], extra_postargs=sanitize)

    def _compiled(self, name: str, flags: list[str]) -> list[str]:
        options = [*FLAGS, *flags, f"-DSET={name}"]
        return self.compiler.compile(
            [str(KERNELS / "kernel.c")], str(Path(self.build_temp) / name), extra_postargs=options
        )


class BuildWheel(bdist_wheel):
    """A wheel of a platform for all versions of Python, since ctypes loads the kernel."""

    def get_tag(self) -> tuple[str, str, str]:
        """Replace the tags of the interpreter that builds it."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("senet.ops.cpu._kernel", [], optional=True)],
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": BuildWheel},
)

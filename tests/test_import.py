"""What importing and asking for help cost."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys

import senet
from senet.cli import COMMANDS

HEAVY = ("timm", "lightning", "matplotlib", "sklearn", "torchvision", "torchmetrics", "rich", "PIL", "tensorboard")
RUNTIMES = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")


def modules_after(code: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('MODULES', *sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.split(".")[0] for line in run.stdout.partition("MODULES")[2].split()}


def test_the_public_names_cost_torch_and_nothing_heavy():
    found = modules_after("import senet\nfor name in senet.__all__: getattr(senet, name)")
    assert "torch" in found
    assert not found & {*HEAVY, *RUNTIMES}


def test_help_costs_no_torch():
    asked = [["--help"], *([command, "--help"] for command in COMMANDS)]
    found = modules_after(
        f"from senet.cli import main\nfor asked in {asked}:\n  try: main(asked)\n  except SystemExit: pass"
    )
    assert "argparse" in found
    assert not found & {"torch", "numpy", *HEAVY, *RUNTIMES}


def test_help_answers_at_once():
    command = [sys.executable, "-m", "senet", "--help"]
    taken = []
    for _ in range(3):
        before = os.times()
        assert "train" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        after = os.times()
        # The processor's time, not the clock's: other work on this machine is not what is measured.
        taken.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(taken) < 0.5


def test_the_public_list_is_short_and_complete():
    assert len(senet.__all__) <= 26
    assert all(hasattr(senet, name) for name in senet.__all__)
    assert set(senet.__all__) <= set(dir(senet))


def test_no_sub_package_has_the_name_of_a_function():
    packages = {module.name for module in pkgutil.iter_modules(senet.__path__) if not module.name.startswith("_")}
    for name in packages:  # an import sets the package's attribute
        importlib.import_module(f"senet.{name}")
    functions = {name for name in senet.__all__ if inspect.isfunction(getattr(senet, name))}
    assert "cost" in functions
    assert not functions & packages


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(senet, "nothing_of_the_kind")

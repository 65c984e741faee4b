"""A folder of real scans, a network trained on it, and a way to call the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_options import QUICK

from senet.cli import main
from senet.data import Subset, open_data, write_images


@pytest.fixture(scope="session")
def digit_folder(tmp_path_factory) -> Path:
    """`train/` of 300 and `test/` of 100 digits, as image files."""
    folder, digits = tmp_path_factory.mktemp("digits"), open_data("digits")
    rng = np.random.default_rng(0)
    for part, source, count in (("train", digits.train, 300), ("test", digits.val, 100)):
        chosen = Subset(source, rng.permutation(len(source))[:count])
        write_images(chosen, folder / part, classes=digits.classes)
    return folder


@pytest.fixture(scope="session")
def trained(digit_folder, tmp_path_factory) -> Path:
    """The folder of a run on `digit_folder`."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    code = main(["train", "--data", f"folder:{digit_folder}", "--model", "se_cifar_resnet20", "--out", str(folder),
                 "--hflip", "0", *QUICK])  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture
def senet(capsys) -> Callable[..., tuple[int, str, str]]:
    """Call a verb; gives exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def refused(senet) -> Callable[..., str]:
    """Call a verb that must refuse: exit code 2, one or two lines, no traceback; gives the message."""

    def call(*arguments: object) -> str:
        code, out, err = senet(*arguments)
        assert code == 2, (out, err)
        # Only the last lines are the refusal: a training has said its plan, argparse its usage before.
        message = err[err.rindex(f"senet {arguments[0]}:") :]
        assert 1 <= len(message.strip().splitlines()) <= 2, err
        assert "Traceback" not in err
        return message

    return call

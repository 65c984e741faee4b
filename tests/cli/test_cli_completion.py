"""Shell completion, the man page and `--version`, all from the parser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import senet as package
from senet.cli import COMMANDS, main
from senet.cli import completion as module
from senet.cli.version import git_version


def completed(script: Path, *words: str) -> list[str]:
    line = " ".join(words)
    program = f"""
    source {script}
    COMP_WORDS=({line}) COMP_CWORD={len(words) - 1} COMP_LINE="{line}" COMP_POINT={len(line)}
    _shtab_senet senet "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_bash_completes_commands_options_and_choices(senet, tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    code, out, _ = senet("completion", "bash")
    assert code == 0
    script = tmp_path / "senet.bash"
    script.write_text(out)
    assert completed(script, "senet", "com") == ["compare", "completion"]
    assert completed(script, "senet", "train", "--logg") == ["--logger"]
    assert completed(script, "senet", "evaluate", "--split", "t") == ["train", "test"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_take_the_script(senet, tmp_path: Path, shell: str) -> None:
    pytest.importorskip("shtab")
    code, out, _ = senet("completion", shell)
    assert code == 0
    assert all(name in out for name in COMMANDS)
    if shutil.which(shell):
        (tmp_path / "script").write_text(out)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_completion_without_its_library(senet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    code, _, err = senet("completion", "bash")
    assert code == 2
    assert "pip install shtab" in err


def test_the_man_page_has_every_command(tmp_path: Path) -> None:
    pytest.importorskip("argparse_manpage")
    from make_manpage import manpage

    text = manpage()
    assert text.startswith(".TH SENET")
    for name in COMMANDS:
        assert re.search(rf"senet {name}\\?\b", text.replace("\\fR", "").replace("\\fB", "").replace("\\-", "-")), name
    assert "log\\-every" in text
    if shutil.which("groff"):
        (tmp_path / "senet.1").write_text(text)
        run = subprocess.run(["groff", "-man", "-ww", "-z", tmp_path / "senet.1"], capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert not end.value.code
    first, second, third = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"senet {re.escape(package.__version__)}( \([\w.-]+\))?", first)
    assert second == f"torch {torch.__version__}"
    assert re.match("kernel (compiled|missing): ", third)


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert git_version(tmp_path) == ""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    own = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for arguments in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m one", "tag v1.2"):
        subprocess.run(["git", *arguments.split()], cwd=tmp_path, env=own, check=True)
    assert git_version(tmp_path) == "v1.2"

"""`senet inspect` on real files."""

from __future__ import annotations

import json


def test_inspect_writes_a_report_and_prints_its_summary(senet, trained, digit_folder, tmp_path):
    out = tmp_path / "new" / "report"
    code, text, err = senet(
        "inspect", "--checkpoint", trained, "--data", f"folder:{digit_folder}", "--limit", "60", "--class-names", "7,1",
        "--examples", "2", "--out", out, "--json", "--workers", "0",
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads(text)
    assert (summary["images"], summary["chosen"]) == (60, [7, 1])
    assert len(summary["blocks"]) == 9
    report = json.loads((out / "report.json").read_text())
    assert report["blocks"] == summary["blocks"]
    assert [example["label"] for example in report["examples"]] == ["7", "1"]
    assert (out / "index.html").stat().st_size < 10_000_000
    assert (out / "blocks.csv").exists()


def test_inspect_prints_a_table(senet, trained, digit_folder):
    code, text, err = senet(
        "inspect", "--checkpoint", trained, "--data", f"folder:{digit_folder}", "--limit", "20", "--workers", "0"
    )
    assert code == 0, err
    assert "stages.4.2" in text
    assert "class-specific" in text


def test_inspect_refuses_in_words(refused, trained, digit_folder, tmp_path):
    common = ["inspect", "--checkpoint", trained, "--data", f"folder:{digit_folder}", "--workers", "0"]
    assert "unknown class 'nine'" in refused(*common, "--class-names", "nine")
    assert "--limit" in refused(*common, "--limit", "0")
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in refused(*common, "--out", file)

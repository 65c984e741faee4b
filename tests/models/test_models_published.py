"""The published figures beside our counts, and the page made of them."""

from __future__ import annotations

import csv
import importlib.util
import json
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

import senet
from senet.cli import main
from senet.models import MODELS, PUBLISHED
from senet.profiling import cost

MAKER = Path(__file__).resolve().parents[2] / "docs" / "make_models.py"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_models", MAKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_published_network_is_ours() -> None:
    assert set(PUBLISHED) <= set(MODELS)
    for rows in PUBLISHED.values():
        assert len({(row.source, row.data, row.pixels) for row in rows}) == len(rows)


# Table 2, as printed; "equal" after rounding or not.
@pytest.mark.parametrize(
    ("name", "printed", "errors", "agreement"),
    [
        ("resnet50", "3.86G", "24.80/7.48", "equal"),
        ("se_resnet50", "3.87G", "23.29/6.62", "last digit"),
        ("se_resnext50_32x4d", "4.25G", "21.10/5.49", "last digit"),
        ("vgg16", "15.47G", "27.02/8.81", "equal"),
        ("bn_inception", "2.03G", "25.38/7.89", "equal"),
        ("inception_resnet_v2", "11.75G", "20.37/5.21", "differs"),
        ("mobilenet_v1", "569M", "28.40/9.40", "equal"),
        ("se_mobilenet_v1", "572M", "25.30/7.70", "last digit"),
        ("shufflenet_v1_g3", "140M", "32.60/12.50", "last digit"),
        ("se_shufflenet_v1_g3", "142M", "31.00/11.10", "differs"),
    ],
)
def test_the_papers_columns(name: str, printed: str, errors: str, agreement: str) -> None:
    row = PUBLISHED[name][0]
    macs = cost(senet.create_model(name, device="meta"), (3, row.pixels, row.pixels)).macs
    assert (row.macs, row.errors) == (printed, errors)
    assert row.agreement(macs) == agreement
    assert (row.agreement(macs) == "differs") == bool(row.discrepancy)


def test_pytorchcvs_errors_are_those_that_it_publishes() -> None:
    table = files(pytest.importorskip("pytorchcv")) / "models" / "common" / "model_metainfos.csv"
    errors = {row["model_name"]: row["error_value"] for row in csv.DictReader(table.read_text().splitlines())}
    found = {n: row for n, rows in PUBLISHED.items() for row in rows if row.source.startswith("pytorchcv")}
    assert len(found) == 5
    for name, row in found.items():
        theirs = name.removeprefix("cifar_") + "bn" * name.endswith("164") + "_cifar10"
        assert f"{row.top1:05.2f}".replace(".", "") == errors[theirs], name


def test_agreement() -> None:
    row = PUBLISHED["resnet50"][0]
    assert [row.agreement(n * 10**7) for n in (386, 387, 389, 390)] == ["equal", "last digit", "last digit", "differs"]
    assert row.like_printed(3_857_973_248) == "3.86G"
    without = PUBLISHED["senet154"][0]
    assert (without.agreement(1), without.like_printed(1)) == ("", "")


def test_the_list_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "*inception_resnet_v2", "--cost"]) == 0
    table = capsys.readouterr().out
    assert all(text in table for text in ("11.75G", "11.76G", "20.37/5.21", "19.80/4.79", "* inception_resnet_v2: not"))
    assert main(["list", "se_resnet50", "--cost", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["se_resnet50"]["published"]
    assert first["macs"] == 3_870_000_000
    assert first["macs_agreement"] == "last digit"
    assert first["source"].endswith("Table 2")
    assert second["top1_error_percent"] == 22.37
    assert main(["list", "resnet18", "--cost"]) == 0
    assert "published:" not in capsys.readouterr().out


def test_the_page_lists_every_network(maker: ModuleType) -> None:
    page = maker.PAGE.read_text(encoding="utf-8")
    named = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert named == senet.list_models()
    assert page.startswith(maker.HEAD)
    assert page.endswith(maker.tail())


@pytest.mark.parametrize(
    "name",
    ["se_resnet50", "cifar_preresnet110", "cifar_resnet20", "inception_resnet_v2", "mobilenet_v1", "se_mobilenet_v1"],
)
def test_the_page_is_up_to_date(maker: ModuleType, name: str) -> None:
    assert maker.row(name) in maker.PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_whole_page_is_up_to_date(maker: ModuleType) -> None:
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page()

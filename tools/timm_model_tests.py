"""Run timm's own model tests on the networks of this package, and print the result by test and network.

    python tools/timm_model_tests.py PATH/tests/test_models.py senet_se_resnet18 senet_se_densenet121

The file is from timm's repository and isn't changed. Without names, one small network of each family is tested.
Published weights are replaced by random ones of the same layout, which a server on this machine offers.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integrations"))
from hub_server import Hub, Repository, running_hub

import senet
import senet.integrations.timm
from senet.weights import to_layout
from senet.weights.catalog import CARDS

NAMES = (
    "se_resnet18", "se_resnet50_v1_5", "se_resnext50_32x4d", "se_cifar_resnet20", "se_cifar_preresnet20", "se_wrn16_8",
    "se_shake_shake26_2x96d", "se_vgg11", "se_densenet121", "se_mobilenet_v1_025", "se_shufflenet_v1_g1",
    "se_bn_inception", "se_inception_v3", "se_inception_resnet_v2", "resnet18_v1_5", "vgg11",
)  # fmt: skip


class Results:
    """A plugin of pytest: collects the tests of some networks, and their outcomes."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.outcomes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.reasons: dict[str, str] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        """Name the marks of timm's tests."""
        for mark in ("base", "cfg", "torchscript", "features", "fxforward", "fxbackward"):
            config.addinivalue_line("markers", mark)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sort one outcome in."""
        test, _, case = report.nodeid.rpartition("::")[2].partition("[")
        name = case.rstrip("]").partition("-")[2].partition(".")[0]
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[test][report.outcome].append(name.removeprefix("senet_"))
            if report.failed:
                self.reasons.setdefault(test, str(report.longrepr).strip().splitlines()[-1])

    def selected(self, *arguments: Any, exclude_filters: Any = "", **options: Any) -> list[str]:
        """Stand in for `timm.list_models`: the tests choose families by timm's modules, which these networks lack."""
        if arguments or isinstance(options.get("filter"), list):  # transformers
            return []
        options.pop("module", None)
        found = self.all_models("senet_*", exclude_filters=exclude_filters, **options)
        return [name for name in found if name.partition(".")[0] in self.names]

    all_models = staticmethod(timm.list_models)


def serve_random_weights(hub: Hub, names: list[str]) -> None:
    """Put random weights, as timm names them, into the repositories of the networks' public checkpoints."""
    made: dict[str, bytes] = {}
    for card in CARDS:
        if f"senet_{card.model}" in names:
            key = f"{card.model} {card.options} {card.num_classes}"
            if key not in made:
                network = senet.create_model(card.model, **card.network_options())
                made[key] = save({name: tensor.contiguous() for name, tensor in to_layout(network, "timm").items()})
            hub.repositories[card.repo] = repository = Repository(private=False)
            repository.commit("main", {card.file: made[key]})


def main(path: str, *names: str) -> int:
    """Run and print."""
    import huggingface_hub.constants as constants

    results = Results(list(names or [f"senet_{name}" for name in NAMES]))
    timm.list_models, timm.list_pretrained = results.selected, lambda *_: []
    with running_hub() as hub, tempfile.TemporaryDirectory() as cache:
        constants.ENDPOINT, constants.HF_HUB_CACHE = hub.url, cache
        constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        serve_random_weights(hub, results.names)
        print(f"timm {timm.__version__}, torch {torch.__version__}: {', '.join(results.names)}")
        code = pytest.main(
            ["-q", "-p", "no:cacheprovider", "-k", "senet_", "--tb=line", "--noconftest", "-W", "ignore", "-c",
             "/dev/null", "--rootdir", str(Path(path).parent), path],
            plugins=[results],
        )  # fmt: skip
    for test, outcomes in results.outcomes.items():
        counts = ", ".join(f"{outcome} {len(cases)}" for outcome, cases in outcomes.items())
        failed = ", ".join(sorted(set(outcomes["failed"])))
        print(f"{test}: {counts}" + (f" ({failed}): {results.reasons[test][:160]}" if failed else ""))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

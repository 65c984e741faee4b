"""What all tests share: how many examples property tests draw, which cases `make test` takes, curves drawn once."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# `make test` takes the first profile, `make test-all` the second.
settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile("quick")

# `make test` takes so many cases of these tests, spread over their list. The others go through the same code with
# another network, layer or format: `make test-all` takes them.
CASES = {
    "cli/test_cli_external.py::test_attention_goes_into_a_users_own_network": 2,
    "cli/test_cli_retrofit.py::test_a_kill_before_the_first_state_loses_nothing": 1,
    "cli/test_cli_retrofit.py::test_bad_use_leaves_nothing": 1,
    "cli/test_cli_retrofit.py::test_the_network_is_kept_and_then_learns": 1,
    "data/test_data_faults.py::test_neither_training_nor_evaluation_skips_it": 2,
    "deploy/test_deploy_any.py::test_hooks_take_part": 2,
    "deploy/test_deploy_any.py::test_networks_of_any_number_of_channels": 1,
    "deploy/test_deploy_export.py::test_a_missing_package_is_named_with_its_extra": 2,
    "deploy/test_deploy_export.py::test_the_same_function_at_any_size_and_batch": 3,
    "fusion/test_fusion_accelerate.py::test_same_numbers": 4,
    "fusion/test_fusion_networks.py::test_any_activation": 4,
    "fusion/test_fusion_networks.py::test_any_order": 4,
    "fusion/test_fusion_optimize.py::test_the_same_function": 36,
    "models/test_models_authors.py::test_convolutions": 3,
    "models/test_models_backbone.py::test_shortcuts_of_all_kinds_are_dilated": 4,
    "models/test_models_contract.py::test_a_dilated_map_is_the_map_and_what_lies_between": 3,
    "models/test_models_contract.py::test_every_parameter_learns_and_checkpointing_changes_nothing": 14,
    "models/test_models_contract.py::test_maps_are_known_before_running": 16,
    "models/test_models_contract.py::test_output_stride": 3,
    "models/test_models_inception_parity.py::test_the_comparison_sees_a_mistake": 2,
    "models/test_models_parity.py::test_the_same_weights_give_the_same_logits": 4,
    "models/test_models_stages.py::test_checkpointing_under_compile": 1,
    "nn/test_attention_contract.py::TestContract::test_compiles_to_one_graph_for_any_size": 3,
    "nn/test_attention_contract.py::TestContract::test_compiles_with_its_backward_pass": 3,
    "surgery/test_surgery_compiled.py::test_compiled_networks_use_train_and_lose_their_gates": 2,
    "surgery/test_surgery_freeze.py::test_a_frozen_network_is_the_one_with_constant_gates": 3,
    "surgery/test_surgery_zoo.py::test_a_family_gets_attention_and_keeps_its_function": 7,
    "tasks/test_tasks_logits.py::test_such_networks_are_trained_evaluated_and_used": 2,
    "tasks/test_tasks_networks.py::test_a_pyramid_on_every_family": 5,
    "training/test_training_accelerate.py::test_the_losses_agree_with_separate_modules": 4,
    "training/test_training_interrupted.py::test_a_kill_while_the_first_epoch_is_written_keeps_the_initial_weights": 2,
    "training/test_training_interrupted.py::test_killed_again_and_again": 2,
    "training/test_training_status.py::test_a_longer_run_follows_the_longer_schedule": 1,
    "weights/test_weights_converters.py::test_every_key_has_its_place": 7,
    "weights/test_weights_converters.py::test_the_largest_catalogue_of_se_networks": 3,
    "weights/test_weights_converters.py::test_the_same_logits_there_and_back": 10,
    "weights/test_weights_odd.py::test_odd_tensors_are_told_and_change_nothing": 16,
    "weights/test_weights_trainers.py::test_each_trainers_file_loads": 18,
    "weights/test_weights_wrapped.py::test_weights_go_from_any_into_any": 12,
}
TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases beyond `CASES` as slow."""
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        path, _, name = item.nodeid.partition("::")
        test = f"{item.path.relative_to(TESTS).as_posix()}::{name.partition('[')[0]}"
        if path and test in CASES and not item.get_closest_marker("slow"):
            found.setdefault(test, []).append(item)
    for test, cases in found.items():
        kept = {i * len(cases) // CASES[test] for i in range(CASES[test])}
        for i, item in enumerate(cases):
            if i not in kept:
                item.add_marker(pytest.mark.slow)


_DRAWN: dict[tuple[Any, ...], bytes] = {}


def _draw_once(rows: Sequence[dict[str, float]], path: Path, score: Any, title: str = "") -> None:
    """Draw the first table of each kind; write that picture again for others, since a picture takes half a training."""
    finite = all(math.isfinite(value) for row in rows for value in row.values())
    kind = (*sorted(rows[0]), score.key, len(rows) > 1, finite)
    if kind not in _DRAWN:
        from senet.training.curves import draw_curves

        draw_curves(rows, path, score, title)
        _DRAWN[kind] = path.read_bytes()
    path.write_bytes(_DRAWN[kind])


def pytest_collection_finish() -> None:
    """Look through the imported libraries' million objects for garbage less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_runtest_setup() -> None:
    """Only where a training or a loader was imported, which takes seconds."""
    if checkpointer := sys.modules.get("senet.training.checkpointer"):
        checkpointer.draw_curves = _draw_once  # type: ignore[attr-defined]
    if loading := sys.modules.get("torch.utils.data._utils"):
        # So long, not 5 s, a loader waits for a process that failed before it ends it.
        loading.MP_STATUS_CHECK_INTERVAL = 0.5  # type: ignore[attr-defined]

"""Search hyperparameters with Optuna: bad trials are pruned, killed ones continue where they were.

    pip install 'senet[tune]'
    python examples/optuna_search.py --data folder:flowers --trials 20 --epochs 10 --out runs/search

Give the same command again to continue after an interruption, or in several terminals at once for several processes.
The best options come at the end, as a `senet train` command.
"""

from __future__ import annotations

import argparse
import shlex
import warnings
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from optuna_integration import PyTorchLightningPruningCallback

from senet.training import DataOptions, Job, ModelInitialization, Recipe, recipe_named
from senet.training.failures import Diverged

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def searched(trial: optuna.Trial, recipe: Recipe) -> Recipe:
    """Return the recipe with the trial's options. The names are also those of `senet train`."""
    return replace(
        recipe,
        lr=trial.suggest_float("lr", 0.003, 0.3, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True),
        label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.2, step=0.05),
    )


def objective(trial: optuna.Trial, options: argparse.Namespace, recipe: Recipe) -> float:
    """Train one network, and return its best top-1 accuracy on the validation images."""
    stored = trial.study.get_trials(deepcopy=False)[trial.number]
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(stored)  # None, if it isn't a retried one
    folder = Path(options.out) / f"trial-{trial.number if number is None else number:03d}"
    pruning = PyTorchLightningPruningCallback(trial, monitor="val/top1")
    job = Job(
        source=DataOptions(data=options.data),
        network=ModelInitialization(model=options.model),
        recipe=searched(trial, recipe),
    )
    begin = job.resume if (folder / "run.json").is_file() else job.start
    try:
        return begin(folder, callbacks=[pruning]).best["val_top1"]
    except Diverged as error:
        raise optuna.TrialPruned(str(error)) from error


def command(study: optuna.Study, options: argparse.Namespace) -> str:
    """Return the best trial as a command."""
    words = ["senet", "train", options.model, "--data", options.data]
    words += ["--recipe", options.recipe, "--epochs", options.epochs]
    for name, value in study.best_params.items():
        words += [f"--{name.replace('_', '-')}", f"{value:.4g}"]
    return shlex.join(map(str, words))


def main() -> None:
    """Create the study or continue it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as for senet train")
    parser.add_argument("--model", default="se_resnet18", help="default: %(default)s")
    parser.add_argument("--recipe", default="photos", help="values that aren't searched (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=20, help="in all, of all calls (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of a trial that isn't pruned (default: %(default)s)")
    parser.add_argument("--out", default="runs/search", help="study and runs (default: %(default)s)")
    parser.add_argument("--grace", type=int, default=120, metavar="SECONDS",
                        help="a trial that is silent for so long is continued (default: %(default)s)")  # fmt: skip
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    Path(options.out).mkdir(parents=True, exist_ok=True)
    storage = RDBStorage(
        f"sqlite:///{Path(options.out).absolute()}/study.db",
        heartbeat_interval=max(1, options.grace // 4),
        grace_period=options.grace,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True),
    )
    study = optuna.create_study(
        storage=storage,
        study_name="senet",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(n_startup_trials=5),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
    )
    recipe = recipe_named(options.recipe).for_epochs(options.epochs)
    ended = len(study.get_trials(states=ENDED))
    if ended < options.trials:
        study.optimize(
            lambda trial: objective(trial, options, recipe), callbacks=[MaxTrialsCallback(options.trials, ENDED)]
        )
    print(f"trial {study.best_trial.number}: top-1 {study.best_value:.2%}\n{command(study, options)}")


if __name__ == "__main__":
    main()

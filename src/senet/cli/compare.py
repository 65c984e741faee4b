"""Train several networks alike and report how much they differ.

All networks share the recipe, the order of the images and the seeds.

Given one MODEL, the network without attention is compared with the same network with attention. Each training is an
ordinary run in a subfolder of --out. The same command continues where it stopped, also with more seeds. Start it
again on another GPU or node to share the work: each process takes a training that no other process is running.

--recipe also takes the name of a table of the paper (`senet list --recipes`), whose rows are then compared. For
table7, --checkpoint is the folder of a comparison of table2, which trained the backbones.

The folder gets compare.md, compare.png and compare.json.

Examples:
  senet compare resnet50 --data folder:PATH --seeds 3 --out runs/does-se-help
  senet compare --data folder:PATH --variant plain=resnet50 --variant se8=resnet50 attention=se:reduction=8
  senet compare --data folder:PATH --variant tuned=runs/flowers --variant se=runs/flowers retrofit=se
  senet compare cifar_resnet56 --recipe table10 --data folder:PATH --limit 10000 --epochs 10
  senet compare --resume runs/does-se-help
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli import jobs
from senet.cli import options as shared
from senet.cli.dry_run import data_rows, describe_data, describe_network, recipe_rows
from senet.cli.fields import given_fields
from senet.cli.job_options import add_job_options
from senet.cli.output import counting, print_json, print_table
from senet.cli.values import numbers
from senet.comparison.paper_tables import from_table
from senet.comparison.plan import Comparison
from senet.comparison.variant import Variant, VariantSpec, default_variants, errors_named, parse_variant
from senet.console import line_printer, plain_console
from senet.errors import SenetError
from senet.training.model_initialization import SCRATCH
from senet.training.paper_tables import TABLES, paper_table_named
from senet.training.recipe import RunOptions

if TYPE_CHECKING:
    from senet.comparison.measuring import TrainingCost
    from senet.data import Data

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet compare MODEL --data DATA [--seeds N] [--out DIR] [--recipe NAME]
                     [--epochs EPOCHS] [options, see below]
       senet compare --variant NAME=NETWORK [KEY=VALUE ...] --variant ... --data DATA
       senet compare --recipe TABLE --data DATA [--only ROW ...]
       senet compare --resume DIR"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_job_options(parser, pretrained="no")
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--variant",
        nargs="+",
        action="append",
        metavar=("NAME=NETWORK", "KEY=VALUE"),
        help="a network with a name of your choice. Give two or more: the others are compared with the first. NETWORK "
        "is as MODEL, or the path of a checkpoint. Keys: attention, placement, stages, any option of the network, "
        "pretrained=true, retrofit=SPEC to insert attention by surgery (default: MODEL without and with attention)",
    )
    group.add_argument(
        "--only", nargs="+", action="extend", metavar="ROW", help="rows of the paper's table (default: all)"
    )
    group.add_argument(
        "--seeds", type=int, metavar="N", help="trainings of each network, with seeds from --seed on (default: 3)"
    )
    group.add_argument(
        "--test-sizes",
        type=numbers,
        metavar="N,N",
        help="evaluate at these image sizes too, and show how the squeeze changes (default: none)",
    )
    group.add_argument(
        "--timing-seconds",
        type=float,
        metavar="SECONDS",
        help="time the networks in turns for so long, 0 leaves it out (default: 10)",
    )


def run(options: argparse.Namespace) -> int:
    """Train the missing runs and report."""
    from senet.comparison.measuring import training_costs
    from senet.comparison.running import join_comparison, refuse_others, train_all
    from senet.training.interruption import Interrupted

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SenetError("senet compare starts the processes of each training itself (--devices N): run it once")
    console = plain_console()
    print_line = line_printer(console)
    folder, comparison, data = _resumed(options) if options.resume is not None else _new(options)
    if options.dry_run:
        _print_plan(comparison, folder, data, options)
        return 0
    refuse_others(comparison, folder, data)
    # Each network is built once before anything is written, so that errors show at once.
    counted = training_costs(comparison, data, seconds=0)
    with join_comparison(comparison, folder, print_line):
        report = partial(_report, comparison, folder, counted)
        try:
            failed, elsewhere = train_all(comparison, folder, data, console, after_each=report)
        except Interrupted:
            print_line(f"stopped and saved; continue with: senet compare --resume {folder}")
            return 130
        for line in elsewhere:
            print_line(f"not finished: {line}")
        # The process that finishes the last run also does the slow measurements.
        result = report(failed, None if elsewhere else data)
    if options.json:
        print_json(result)
    else:
        _print(result, folder)
    return 2 if failed else 0


def _new(options: argparse.Namespace) -> tuple[Path, Comparison, Data]:
    if options.data is None:
        raise SenetError("--data is missing (or --resume DIR); `senet compare --help` says more")
    source = jobs.job_data(options)
    data = source.open()
    variants = tuple(variant.for_data(data) for variant in _variants(options, data))
    first = variants[0].recipe.seed
    comparison = Comparison(
        source=source,
        variants=variants,
        seeds=tuple(range(first, first + _count(options.seeds if options.seeds is not None else 3, "--seeds"))),
        run=jobs.run_options(options),
        sizes=_sizes(options),
        title=_title(options, variants),
        timing_seconds=10.0 if options.timing_seconds is None else options.timing_seconds,
        command=shlex.join(["senet", *sys.argv[1:]]),
    )
    return options.out or jobs.default_folder("compare", variants[-1].init.model, options.data), comparison, data


def _print_plan(comparison: Comparison, folder: Path, data: Data, options: argparse.Namespace) -> None:
    """Print the networks, the data and the recipes of a comparison without training."""
    jobs_by_name = {variant.name: comparison.job(variant, comparison.seeds[0]) for variant in comparison.variants}
    networks = {}
    for name, job in jobs_by_name.items():
        with errors_named(name):
            networks[name] = describe_network(job, data)
    recipes = {name: job.recipe.to_dict() for name, job in jobs_by_name.items()}
    images = describe_data(data)
    if options.json:
        found = {"out": str(folder), "networks": networks, "data": images, "recipes": recipes}
        print_json(found | {"run": asdict(comparison.run), "seeds": list(comparison.seeds)})
        return
    rows = [
        [name, n["model"], f"{n['params']:,}", f"{n['macs']:,}", "x".join(map(str, n["input_size"])), n["weights"]]
        for name, n in networks.items()
    ]
    print_table(("variant", "model", "parameters", "MACs", "input", "weights"), rows, left=2)
    print_table(("data", ""), data_rows(images), left=2)
    first, *others = recipes.values()
    named = {"recipe": first} if all(other == first for other in others) else recipes
    for name, recipe in named.items():
        print_table((name if name == "recipe" else f"recipe of {name}", ""), recipe_rows(recipe), left=2)
    running = [*recipe_rows(asdict(comparison.run)), ["seeds", " ".join(map(str, comparison.seeds))]]
    print_table(("running", ""), [*running, ["out", str(folder)]], left=2)


def _title(options: argparse.Namespace, variants: Sequence[Variant]) -> str:
    names = ", ".join(variant.name for variant in variants)
    if options.recipe in TABLES:
        return f"{options.recipe} ({TABLES[options.recipe].title}) on {options.data}: {names}"
    models = dict.fromkeys(variant.init.model for variant in variants)
    return f"{names} on {options.data} ({', '.join(models)})"


def _resumed(options: argparse.Namespace) -> tuple[Path, Comparison, Data]:
    """Return a stored comparison. Running options, the data's path and the final measurements may change."""
    folder = jobs.resumed_folder(options, "comparison")
    otherwise = "comparison; repeat the whole command, or choose another --out"
    jobs.refuse_fixed(options, {*jobs.LOCATION, "test_sizes", "timing_seconds"}, otherwise)
    comparison = Comparison.read(folder)
    comparison = replace(
        comparison,
        source=jobs.moved(comparison.source, options),
        run=replace(comparison.run, **given_fields(options, RunOptions)),
    )
    if options.test_sizes is not None:
        comparison = replace(comparison, sizes=_sizes(options))
    if options.timing_seconds is not None:
        comparison = replace(comparison, timing_seconds=options.timing_seconds)
    return folder, comparison, comparison.source.open()


def _variants(options: argparse.Namespace, data: Data) -> tuple[Variant, ...]:
    if options.recipe in TABLES:
        return _rows(options, data)
    if options.only:
        raise SenetError("--only chooses rows of a table; --recipe names none (`senet list --recipes` shows them)")
    specs = _variant_specs(options)
    inits = [spec.placed(data) for spec in specs]
    # One recipe for all variants. If any starts from trained weights, it is the fine-tuning recipe.
    recipe = jobs.chosen_recipe(options, next((init for init in inits if init.weights != SCRATCH), inits[0]))
    return tuple(
        Variant(name=spec.name, init=init, recipe=recipe, against=specs[0].name if number else "")
        for number, (spec, init) in enumerate(zip(specs, inits, strict=True))
    )


def _rows(options: argparse.Namespace, data: Data) -> tuple[Variant, ...]:
    """Return the rows of a paper table as variants."""
    network = ("attention", "placement", "stages", "model_kwargs")
    fixed = ("variant", "pretrained", "task", "head", "head_attention", *network)
    given = [name for name in fixed if getattr(options, name) is not None]
    if given:
        raise SenetError(f"--{given[0]}: what is compared is what {options.recipe} says; leave it out")
    table = paper_table_named(options.recipe)
    return from_table(
        table,
        data,
        name=options.recipe,
        only=options.only or (),
        model=options.model,
        size=options.size,
        weights=Path(options.checkpoint) if options.checkpoint else None,
        change=lambda recipe: jobs.overridden(recipe, options),
    )


def _variant_specs(options: argparse.Namespace) -> list[VariantSpec]:
    if options.variant is None:
        network = shared.network_options(options)
        if options.attention is not None and network.get("attention") is None:
            raise SenetError("--attention none leaves nothing to compare with the plain network")
        attention = network.pop("attention", None)
        where: dict[str, Any] = {}
        if options.checkpoint or options.pretrained or (options.model and ":" in options.model):
            # Surgery inserts the attention: these options choose the insertion points, not the network.
            where = {key: network.pop(key) for key in ("placement", "stages") if key in network}
        return default_variants(jobs.chosen_initialization(options, network, pretrained=False), attention, where)
    given = [
        name
        for name in ("model", "checkpoint", "attention", "placement", "stages", "model_kwargs")
        if getattr(options, name)
    ]
    if given:
        raise SenetError(f"--{given[0]} says what one network is; with --variant write it there")
    specs = [
        parse_variant(words, options.size, pretrained=options.pretrained, task=options.task)
        for words in options.variant
    ]
    specs = [replace(spec, init=jobs.with_head(options, spec.init)) for spec in specs]
    if len(specs) == 1:
        raise SenetError("one --variant has nothing to be compared with; give a second, or --model instead")
    return specs


def _count(number: int, option: str) -> int:
    if number < 1:
        raise SenetError(f"{option} {number} must be at least 1")
    return number


def _sizes(options: argparse.Namespace) -> tuple[int, ...]:
    if options.test_sizes is None:
        return ()
    return tuple(_count(size, "--test-sizes") for size in options.test_sizes)


def _report(
    comparison: Comparison, folder: Path, counted: dict[str, TrainingCost], failed: list[str], data: Data | None = None
) -> dict[str, Any]:
    """Collect and write the results. With data, also time the networks and evaluate other image sizes."""
    from senet.comparison.measuring import training_costs
    from senet.comparison.report import write
    from senet.comparison.result import collect

    found = (
        training_costs(comparison, data, seconds=comparison.timing_seconds)
        if data and comparison.timing_seconds
        else counted
    )
    sizes = _at_sizes(comparison, folder, data) if data and comparison.sizes else {}
    result = collect(comparison, folder, training_costs=found, sizes=sizes, failed=failed, machine=_machine())
    write(result, folder, comparison.command)
    return result


def _at_sizes(comparison: Comparison, folder: Path, data: Data) -> dict[str, dict[int, dict[str, Any]]]:
    """Evaluate each finished run at other image sizes."""
    from senet.comparison.running import finished_rows
    from senet.comparison.sizes import at_sizes

    found: dict[str, dict[int, dict[str, Any]]] = {}
    training_runs = [
        training_run for training_run in comparison.training_runs(folder) if finished_rows(training_run.folder)
    ]
    with counting("evaluating at other sizes") as progress:
        for number, training_run in enumerate(training_runs, 1):
            found.setdefault(training_run.variant, {})[training_run.seed] = at_sizes(
                training_run, data, comparison.sizes
            )
            progress(number, len(training_runs))
    return found


def _machine() -> str:
    import torch

    name = platform.processor() or platform.machine()
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip()
    except (OSError, IndexError):
        pass  # not Linux: the general name must do
    if torch.accelerator.is_available():
        name += f", {torch.accelerator.current_accelerator()}"
    return f"{name}, {torch.get_num_threads()} threads"


def _print(result: dict[str, Any], folder: Path) -> None:
    from senet.comparison.report import REPORT, head, lines, rows, size_rows

    print_table(head(result), rows(result), title=result["title"])
    columns, table = size_rows(result)
    if table:
        print_table(columns, table, left=2)
    for line in lines(result):
        print(line)
    print(f"report: {folder / REPORT}")

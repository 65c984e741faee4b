"""Write the results of se_helps.md, se_helps.json and se_helps.png from the studies' folders, finished or not.

Finished runs that se_helps.json has already are kept, since a study may go on on another machine. A run in a folder
replaces the same run there.

Run: python benchmarks/se_helps.py runs/short runs/starts runs/preact runs/long
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import ttest_ind
from turns import machine

from senet.comparison.plan import PLAN, Comparison
from senet.comparison.result import collect
from senet.comparison.statistics import paired, spread

HERE = Path(__file__).parent
PAGE = HERE / "se_helps.md"
STORE = HERE / "se_helps.json"
START, END = "<!-- results, written by se_helps.py -->", "<!-- end of results -->"
SEEDS = range(5)
"""Seeds of each study by design."""
IMAGES = 10_000
"""Validation images: CIFAR-100's test set."""
MEASURES = {"top-1 accuracy, points": ("val_top1", 100.0), "validation loss": ("val_loss", 1.0)}
COLOURS = {
    "plain": "#000000",
    "se4": "#D55E00",
    "se16": "#0072B2",
    "se16identity": "#56B4E9",
    "se4default": "#E69F00",
}
ORDER = ("short", "starts", "preact", "long")
FACTORS = {
    "identity start minus default": ({"se4", "se16identity"}, {"se4default", "se16"}),
    "r = 4 minus r = 16": ({"se4", "se4default"}, {"se16", "se16identity"}),
}
"""The study "starts": effect to the networks on either side of its difference."""


def study(folder: Path, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study with the finished runs of its folder and the stored ones, JSON-ready."""
    comparison = Comparison.read(folder)
    found = collect(comparison, folder)
    runs: dict[str, dict[str, Any]] = {}
    for name, variant in found["variants"].items():
        runs[name] = dict(stored.get("runs", {}).get(name, {}))
        for seed, run in variant["runs"].items():
            runs[name][seed] = {
                **{key: run["last_epoch"][key] for key, _ in MEASURES.values()},
                "curve": run["curve"],
                "seconds": round(run["seconds"]),
                "machine": machine(1)["CPU"],
                "date": found["date"][:10],
                "versions": found["versions"],
            }
    return {
        "name": folder.name,
        "epochs": comparison.variants[0].recipe.epochs,
        "networks": {variant.name: [variant.init.model, variant.init.options] for variant in comparison.variants},
        "runs": {name: dict(sorted(of.items())) for name, of in runs.items()},
    }


def with_differences(found: Mapping[str, Any], short: Mapping[str, Any]) -> dict[str, Any]:
    """Return the study with the intervals of all seeds whose runs have all finished."""
    if found["name"] == "starts":
        runs = {**{name: short["runs"][name] for name in ("se4", "se16")}, **found["runs"]}
        sides = FACTORS
    else:
        runs = found["runs"]
        plain, *others = runs
        sides = {name: ({name}, {plain}) for name in others}
    seeds = [seed for seed in map(str, SEEDS) if all(seed in of for of in runs.values())]
    differences = {}
    for name, (ours, theirs) in sides.items():
        differences[name] = {
            measure: difference(
                *({int(seed): scale * fmean(runs[one][seed][key] for one in side) for seed in seeds}
                  for side in (ours, theirs)),
                images=IMAGES if key == "val_top1" else None,
            )
            for measure, (key, scale) in MEASURES.items()
            if seeds
        }  # fmt: skip
    return {**found, "complete_seeds": seeds, "differences": differences}


def difference(values: Mapping[int, float], plain: Mapping[int, float], *, images: int | None) -> dict[str, Any]:
    """Return a mean difference with its interval over pairs, and with Welch's, which ignores the pairs."""
    pairs = paired(values, plain, images=images)
    assert pairs is not None
    welch = None
    if len(values) > 1:
        bounds = ttest_ind(list(values.values()), list(plain.values()), equal_var=False).confidence_interval()
        welch = [float(bounds.low), float(bounds.high)]
    each = [values[seed] - plain[seed] for seed in values]
    return {
        "seeds": pairs.count,
        "mean": pairs.mean,
        "sd_of_pairs": spread(each).sd,
        "paired": pairs.interval and list(pairs.interval),
        "welch": welch,
        "shows": pairs.shows,
    }


def section(found: Mapping[str, Any]) -> str:
    """Return a study's tables as Markdown."""
    runs, complete = found["runs"], found["complete_seeds"]
    finished, planned = sum(map(len, runs.values())), len(runs) * len(SEEDS)
    lines = [
        f"### {found['name'].capitalize()} study: {found['epochs']} epochs, {len(complete)} of {len(SEEDS)} seeds"
        + ("" if finished == planned else ", unfinished"),
        "",
    ]
    if complete:
        lines += [
            f"| {'effect' if found['name'] == 'starts' else 'network'} | measure | mean difference | paired interval | "
            "Welch's interval | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for name, measures in found["differences"].items():
            for measure, result in measures.items():
                digits = 2 if "points" in measure else 4
                cells = [name, measure, f"{result['mean']:+.{digits}f}"]
                cells += [_interval(result[kind], digits) for kind in ("paired", "welch")]
                lines.append("| " + " | ".join([*cells, _verdict(result)]) + " |")
        lines.append("")
    lines += [
        "Accuracy in %, with the validation loss in parentheses:",
        "",
        "| network | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | sd |",
        "|---" * (len(SEEDS) + 3) + "|",
    ]
    for name, of in runs.items():
        cells = [_cell(of[str(seed)]) if str(seed) in of else "" for seed in SEEDS]
        top1 = [100 * of[seed]["val_top1"] for seed in complete]
        mean = spread(top1) if top1 else None
        cells += [f"{mean.mean:.2f}" if mean else "", f"{mean.sd:.2f}" if mean and mean.sd is not None else ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    seconds = [run["seconds"] for of in runs.values() for run in of.values() if run["seconds"] is not None]
    time = f"{sum(seconds) / 3600:.1f} hours on one thread each"
    if len(seconds) < finished:
        time += f", counted for {len(seconds)} of them, since the machine of the others was suspended at times"
    lines += ["", f"Finished runs: {finished} of {planned}, {time}. Mean and sd are of complete seeds."]
    return "\n".join(lines)


def _cell(run: Mapping[str, float]) -> str:
    return f"{100 * run['val_top1']:.2f} ({run['val_loss']:.3f})"


def _verdict(result: Mapping[str, Any]) -> str:
    if result["seeds"] < len(SEEDS):
        return "none yet"
    return "a difference" if result["shows"] else "no difference shown"


def _interval(bounds: Sequence[float] | None, digits: int) -> str:
    return f"[{bounds[0]:+.{digits}f}, {bounds[1]:+.{digits}f}]" if bounds else ""


def draw(studies: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the accuracy of all runs over the epochs, a panel for each study."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(studies), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, found in zip(figure.subplots(1, len(studies), squeeze=False)[0], studies, strict=True):
        for name, of in found["runs"].items():
            for index, run in enumerate(of.values()):
                epochs = range(1, len(run["curve"]) + 1)
                label = "_" if index else name
                axes.plot(
                    epochs, [100 * value for value in run["curve"]], color=COLOURS[name], linewidth=1, label=label
                )
        axes.set(
            xlabel="epoch",
            ylabel="top-1, %",
            title=f"{found['name']}: {len(found['complete_seeds'])} of {len(SEEDS)} seeds",
        )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120, format="png")


def main(folders: Sequence[str]) -> None:
    """Write the results of the studies that have a finished run."""
    studies = {found["name"]: found for found in json.loads(STORE.read_text(encoding="utf-8"))}
    for folder in map(Path, folders):
        if (folder / PLAN).is_file():
            studies[folder.name] = study(folder, studies.get(folder.name, {}))
    shown = [
        with_differences(studies[name], studies["short"])
        for name in ORDER
        if name in studies and any(studies[name]["runs"].values())
    ]
    STORE.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
    draw(shown, HERE / "se_helps.png")
    text = "\n\n".join([START, *map(section, shown), "![Accuracy over the epochs](se_helps.png)", END])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(before + text + rest.partition(END)[2], encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])

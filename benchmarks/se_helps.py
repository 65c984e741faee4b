"""Write the results of se_helps.md, se_helps.json and se_helps.png from the studies' folders, finished or not.

Run: python benchmarks/se_helps.py runs/short runs/long runs/deep
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import ttest_ind

from senet.comparison.plan import PLAN, Comparison
from senet.comparison.result import collect
from senet.comparison.statistics import paired, spread

HERE = Path(__file__).parent
PAGE = HERE / "se_helps.md"
START, END = "<!-- results, written by se_helps.py -->", "<!-- end of results -->"
MEASURES = {"top-1 accuracy, points": ("val_top1", 100.0), "validation loss": ("val_loss", 1.0)}
COLOURS = ("#000000", "#D55E00", "#0072B2")

Runs = dict[str, dict[int, dict[str, Any]]]


def study(folder: Path) -> dict[str, Any]:
    """Return the rows and the intervals of a study, JSON-ready. Only seeds with all arms count."""
    comparison = Comparison.read(folder)
    found = collect(comparison, folder)
    runs: Runs = {
        name: {int(seed): run for seed, run in variant["runs"].items()} for name, variant in found["variants"].items()
    }
    seeds = sorted(set.intersection(*(set(of) for of in runs.values())))
    plain, *others = runs
    return {
        "name": folder.name,
        "epochs": comparison.variants[0].recipe.epochs,
        "networks": {variant.name: [variant.init.model, variant.init.options] for variant in comparison.variants},
        "planned_seeds": list(comparison.seeds),
        "complete_seeds": seeds,
        "finished_runs": found["finished_runs"],
        "planned_runs": found["runs"],
        "hours": sum(run["seconds"] for of in runs.values() for run in of.values()) / 3600,
        "versions": found["versions"],
        "rows": {
            name: {seed: {key: run["last_epoch"][key] for key, _ in MEASURES.values()} for seed, run in of.items()}
            for name, of in runs.items()
        },
        "curves": {name: {seed: run["curve"] for seed, run in of.items()} for name, of in runs.items()},
        "differences": {
            name: {
                measure: difference(
                    {seed: scale * runs[name][seed]["last_epoch"][key] for seed in seeds},
                    {seed: scale * runs[plain][seed]["last_epoch"][key] for seed in seeds},
                    images=found["validation_images"] if key == "val_top1" else None,
                )
                for measure, (key, scale) in MEASURES.items()
            }
            for name in others
        }
        if seeds
        else {},
    }


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
    state = "" if found["finished_runs"] == found["planned_runs"] else ", unfinished"
    lines = [
        f"### {found['name'].capitalize()} study: {found['epochs']} epochs, "
        f"{len(found['complete_seeds'])} of {len(found['planned_seeds'])} seeds{state}",
        "",
    ]
    if found["differences"]:
        lines += [
            "| network | measure | mean difference | paired interval | Welch's interval | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for name, measures in found["differences"].items():
            for measure, result in measures.items():
                digits = 2 if "points" in measure else 4
                verdict = (
                    "a difference"
                    if result["shows"]
                    else "no difference shown"
                    if result["paired"]
                    else "too few seeds"
                )
                lines.append(
                    f"| {name} | {measure} | {result['mean']:+.{digits}f} | {_interval(result['paired'], digits)} | "
                    f"{_interval(result['welch'], digits)} | {verdict} |"
                )
        lines.append("")
    seeds = found["planned_seeds"]
    lines += [
        "Accuracy in %, with the validation loss in parentheses:",
        "",
        "| network | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | sd |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    for name, rows in found["rows"].items():
        cells = [
            f"{100 * rows[seed]['val_top1']:.2f} ({rows[seed]['val_loss']:.3f})" if seed in rows else ""
            for seed in seeds
        ]
        top1 = [100 * rows[seed]["val_top1"] for seed in found["complete_seeds"]]
        mean = spread(top1) if top1 else None
        cells += [f"{mean.mean:.2f}" if mean else "", f"{mean.sd:.2f}" if mean and mean.sd is not None else ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Finished runs: {found['finished_runs']} of {found['planned_runs']}, {found['hours']:.1f} hours of wall clock "
        "in all, one thread each. Mean and sd are of complete seeds.",
    ]
    return "\n".join(lines)


def _cell(row: Mapping[str, float]) -> str:
    return f"{100 * row['val_top1']:.2f} ({row['val_loss']:.3f})"


def _verdict(result: Mapping[str, Any]) -> str:
    if result["paired"] is None:
        return "too few seeds"
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
        for colour, (name, curves) in zip(COLOURS, found["curves"].items(), strict=False):
            for index, curve in enumerate(curves.values()):
                epochs = range(1, len(curve) + 1)
                label = "_" if index else name
                axes.plot(epochs, [100 * value for value in curve], color=colour, linewidth=1, label=label)
        axes.set(xlabel="epoch", ylabel="top-1, %", title=f"{found['name']}: {len(found['complete_seeds'])} seeds")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120, format="png")


def main(folders: Sequence[str]) -> None:
    """Write the results of the studies that have a finished run."""
    studies = [study(Path(folder)) for folder in folders if (Path(folder) / PLAN).is_file()]
    studies = [found for found in studies if found["finished_runs"]]
    if not studies:
        sys.exit("no study has a finished run yet")
    (HERE / "se_helps.json").write_text(json.dumps(studies, indent=1) + "\n", encoding="utf-8")
    draw(studies, HERE / "se_helps.png")
    text = "\n\n".join([START, *map(section, studies), "![Accuracy over the epochs](se_helps.png)", END])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(before + text + rest.partition(END)[2], encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])

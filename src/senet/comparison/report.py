"""The report of a comparison: a table, sentences and a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from senet.training.folder import write_json
from senet.weights.files import write_atomically

__all__ = ["CHART", "REPORT", "head", "lines", "markdown", "rows", "size_rows", "write"]

REPORT, CHART = "compare.md", "compare.png"

# The palette of Okabe and Ito, distinguishable for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def head(result: dict[str, Any]) -> list[str]:
    """Return the columns of the table."""
    costs = ("params", "MACs", "saved MB/image", "latency ms", "step", "training")
    return ["network", _title(result), "sd", "seeds", "difference, points", *costs]


def _title(result: dict[str, Any]) -> str:
    return f"{result['metric']['title']} %"


def _resolution(result: dict[str, Any]) -> str:
    images = result["validation_images"]
    return f", extended by one image ({100 / images:.2g} points) on either side" if images else ""


def rows(result: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table, one per variant."""
    return [_row(name, found) for name, found in result["variants"].items()]


def _row(name: str, found: dict[str, Any]) -> list[str]:
    accuracy, cost, seconds = found["metric_percent"], found["cost"] or {}, found["training_seconds"]
    return [
        name,
        f"{accuracy['mean']:.2f}" if accuracy else "-",
        f"{accuracy['sd']:.2f}" if accuracy and accuracy["sd"] is not None else "-",
        str(accuracy["count"]) if accuracy else "0",
        _difference(found["difference_points"]),
        f"{cost['params']:,}" if cost else "-",
        f"{cost['macs'] / 1e6:,.1f}M" if cost else "-",
        f"{cost['saved_mb']:.2f}" if cost else "-",
        f"{cost['latency_ms']:.2f}{_ratio(cost['latency_ratio'], found)}" if cost.get("latency_ms") else "-",
        f"{cost['step_ratio']:.2f}x" if cost.get("step_ratio") else "-",
        _duration(seconds["mean"]) if seconds else "-",
    ]


def _ratio(ratio: float, found: dict[str, Any]) -> str:
    return f" ({ratio:.2f}x)" if found["against"] else ""


def _difference(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return "-"
    interval = difference["interval"]
    return f"{difference['mean']:+.2f}" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def size_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table over image sizes. Without further sizes there are no rows."""
    found = {name: variant["sizes"] for name, variant in result["variants"].items() if variant["sizes"]}
    sizes = list(dict.fromkeys(size for there in found.values() for size in there))
    columns = ["network", "", *(f"{size} px" for size in sizes)]
    table = []
    for name, there in found.items():
        here = [there.get(size) for size in sizes]
        table.append([name, _title(result), *(f"{s['metric_percent']['mean']:.2f}" if s else "-" for s in here)])
        if any(s and s["difference_points"] for s in here):
            table.append([name, "difference", *(_difference(s["difference_points"]) if s else "-" for s in here)])
        if any(s and s["shift"] for s in here):
            table.append([name, "squeeze shift, mean", *(_shift(s) for s in here)])
            table.append([name, "squeeze shift, largest", *(_largest(s) for s in here)])
    return columns, table


def _shift(size: dict[str, Any] | None) -> str:
    return f"{sum(size['shift'].values()) / len(size['shift']):.2f} sd" if size and size["shift"] else "-"


def _largest(size: dict[str, Any] | None) -> str:
    if not size or not size["shift"]:
        return "-"
    block = max(size["shift"], key=size["shift"].__getitem__)
    return f"{size['shift'][block]:.2f} sd at {block}"


def lines(result: dict[str, Any]) -> list[str]:
    """Return verdicts and remarks, one sentence each."""
    found = result["variants"]
    sentences = [f"{name} against {v['against']}: {v['verdict']}" for name, v in found.items() if v["verdict"]]
    compared = sum(1 for v in found.values() if v["difference_points"] and v["difference_points"]["interval"])
    if compared > 1:
        sentences.append(
            f"each of the {compared} intervals contains its true difference with probability 95 %; "
            f"all of them together do so less often"
        )
    sentences += [f"failed: {failure}" for failure in result["failed"]]
    missing = result["runs"] - result["finished_runs"] - len(result["failed"])
    if missing:
        sentences.append(f"{missing} of {result['runs']} runs are not finished yet")
    sentences += [f"{name}: published {v['published']}" for name, v in found.items() if v["published"]]
    notes = dict.fromkeys(v["note"] for v in found.values() if v["note"])
    return sentences + [f"note: {note}" for note in notes]


def markdown(result: dict[str, Any], command: str) -> str:
    """Return the complete report."""
    recipes = {_recipe_line(v["recipe"]) for v in result["variants"].values()}
    limit = result["training_image_limit"]
    text = [
        f"# {result['title']}",
        "",
        *(["```", command, "```", ""] if command else []),
        _table(head(result), rows(result)),
        "",
        *(f"- {line}" for line in lines(result)),
        "",
        f"![{result['metric']['title']} over the epochs, and differences]({CHART})",
        "",
        "## Setup",
        "",
        f"- Data: {result['data']}" + (f", {limit:,} training images" if limit else "") + "; precision "
        f"{result['precision']}{'' if result['tf32'] else ' without TF32'}; "
        f"seeds {', '.join(map(str, result['seeds']))}.",
        *(f"- Recipe: {line}." for line in sorted(recipes)),
        f"- {ACCELERATED if result['accelerate'] else SEPARATE}",
        "- With the same seed, all networks see the same images in the same order with the same augmentation.",
        f"- {result['metric']['title']}: metric of the last epoch on the validation images. The best epoch would be "
        "chosen on the images that it is measured on.",
        "- sd: standard deviation over the seeds.",
        "- Interval: 95 % confidence interval, Student's t of the differences paired by seed"
        f"{_resolution(result)}. It covers the variation over seeds, not over images.",
        "- saved: memory that a training step saves for its backward pass. latency: time of one image. step: time of "
        "forward and backward relative to the first network's, timed in turns. training: wall-clock time of a run, "
        "which includes the effect of other work on the machine.",
    ]
    columns, table = size_rows(result)
    if table:
        text += ["", "## Other image sizes", "", _table(columns, table), "", SHIFT]
    text += [
        "",
        f"{result['date']}; {result['machine']}; " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()),
    ]
    return "\n".join(text) + "\n"


ACCELERATED = (
    "All networks train and are timed with --accelerate: a norm, its activation and its channel attention run as one "
    "operator, on a CPU with the compiled kernel."
)
SEPARATE = "All networks train and are timed with --no-accelerate: norms and channel attention run separately."

SHIFT = (
    "squeeze shift: change of the squeeze's output between the training size and another size. It is the mean over the "
    "channels of |mean there - mean here|, in standard deviations over the images here, averaged over the seeds."
)


def _recipe_line(recipe: dict[str, Any]) -> str:
    return (
        f"{recipe['epochs']} epochs, batch {recipe['batch_size']}, {recipe['optimizer']}, learning rate "
        f"{recipe['lr']:g} ({recipe['schedule']}), weight decay {recipe['weight_decay']:g}, label smoothing "
        f"{recipe['label_smoothing']:g}, crop {recipe['augmentation']['crop']}"
    )


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in body)]
    )


def write(result: dict[str, Any], folder: Path, command: str = "") -> None:
    """Write report, chart and JSON, each atomically.

    Raises:
        SenetError: The folder can't be written to.
    """
    write_json(folder, "compare.json", result | {"command": command})
    write_atomically(folder / REPORT, lambda path: path.write_text(markdown(result, command), encoding="utf-8"))
    if result["finished_runs"]:
        write_atomically(folder / CHART, lambda path: draw(result, path))


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the metric over the epochs (one line per seed) and the differences with their intervals, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = {name: v for name, v in result["variants"].items() if v["runs"]}
    figure = Figure(figsize=(10, 3.2 + 0.16 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    curves, differences = figure.subplots(1, 2)
    for number, (name, variant) in enumerate(found.items()):
        colour = COLOURS[number % len(COLOURS)]
        for training_run, run in enumerate(variant["runs"].values()):
            percent = [100 * value for value in run["curve"]]
            label = name if training_run == 0 else None
            curves.plot(range(1, len(percent) + 1), percent, color=colour, linewidth=1, alpha=0.8, label=label)
    curves.set_xlabel("epoch")
    curves.set_ylabel(_title(result))
    curves.grid(alpha=0.3)
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend(frameon=False, fontsize=8)
    _draw_differences(differences, found, result["metric"]["title"])
    figure.suptitle(result["title"], fontsize=10)
    figure.savefig(path, dpi=120, format="png")


def _draw_differences(axes: Any, found: dict[str, Any], metric: str) -> None:
    shown = [(name, v) for name, v in found.items() if v["difference_points"]]
    for height, (name, variant) in enumerate(reversed(shown)):
        colour, difference = COLOURS[list(found).index(name) % len(COLOURS)], variant["difference_points"]
        low, high = difference["interval"] or (difference["mean"],) * 2
        axes.plot([low, high], [height, height], color=colour, linewidth=2)
        axes.plot(difference["mean"], height, "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{name}\n- {v['against']}" for name, v in reversed(shown)], fontsize=8)
    axes.set_ylim(-0.6, max(len(shown), 1) - 0.4)
    axes.set_xlabel(f"difference of {metric}, points (95 % interval)")
    axes.grid(alpha=0.3, axis="x")

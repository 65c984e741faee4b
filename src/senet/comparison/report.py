"""A comparison for people: a table, sentences, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from senet.training.folder import write_json
from senet.weights.files import write_atomically

__all__ = ["PICTURE", "REPORT", "head", "lines", "markdown", "rows", "size_rows", "write"]

REPORT, PICTURE = "compare.md", "compare.png"

# Okabe and Ito: told apart by colour-blind people.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def head(result: dict[str, Any]) -> list[str]:
    """The table's columns."""
    costs = ("params", "MACs", "saved MB/image", "latency ms", "step", "training")
    return ["network", _title(result), "sd", "seeds", "difference, points", *costs]


def _title(result: dict[str, Any]) -> str:
    return f"{result['score']['title']} %"


def _resolution(result: dict[str, Any]) -> str:
    images = result["validation_images"]
    return f", and one image ({100 / images:.2g} points) farther on either side" if images else ""


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The table's rows, one a variant."""
    return [_row(name, found) for name, found in result["variants"].items()]


def _row(name: str, found: dict[str, Any]) -> list[str]:
    accuracy, price, seconds = found["score_percent"], found["price"] or {}, found["training_seconds"]
    return [
        name,
        f"{accuracy['mean']:.2f}" if accuracy else "-",
        f"{accuracy['sd']:.2f}" if accuracy and accuracy["sd"] is not None else "-",
        str(accuracy["count"]) if accuracy else "0",
        _difference(found["difference_points"]),
        f"{price['params']:,}" if price else "-",
        f"{price['macs'] / 1e6:,.1f}M" if price else "-",
        f"{price['saved_mb']:.2f}" if price else "-",
        f"{price['latency_ms']:.2f}{_ratio(price['latency_ratio'], found)}" if price.get("latency_ms") else "-",
        f"{price['step_ratio']:.2f}x" if price.get("step_ratio") else "-",
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
    """Head and rows of the table over image sizes; no rows where no other size was asked for."""
    found = {name: variant["sizes"] for name, variant in result["variants"].items() if variant["sizes"]}
    sizes = list(dict.fromkeys(size for there in found.values() for size in there))
    columns = ["network", "", *(f"{size} px" for size in sizes)]
    table = []
    for name, there in found.items():
        here = [there.get(size) for size in sizes]
        table.append([name, _title(result), *(f"{s['score_percent']['mean']:.2f}" if s else "-" for s in here)])
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
    """Verdicts and what has to be known, a sentence each."""
    found = result["variants"]
    said = [f"{name} against {v['against']}: {v['verdict']}" for name, v in found.items() if v["verdict"]]
    compared = sum(1 for v in found.values() if v["difference_points"] and v["difference_points"]["interval"])
    if compared > 1:
        said.append(
            f"each of the {compared} intervals holds the true difference with 95 % by itself; "
            f"that all of them do is less likely"
        )
    said += [f"failed: {sentence}" for sentence in result["failed"]]
    missing = result["runs"] - result["finished_runs"] - len(result["failed"])
    if missing:
        said.append(f"{missing} of {result['runs']} runs are not finished yet")
    said += [f"{name}: published {v['published']}" for name, v in found.items() if v["published"]]
    notes = dict.fromkeys(v["note"] for v in found.values() if v["note"])
    return said + [f"note: {note}" for note in notes]


def markdown(result: dict[str, Any], command: str) -> str:
    """The whole report."""
    recipes = {_recipe_line(v["recipe"]) for v in result["variants"].values()}
    limit = result["training_images_at_most"]
    text = [
        f"# {result['title']}",
        "",
        *(["```", command, "```", ""] if command else []),
        _table(head(result), rows(result)),
        "",
        *(f"- {line}" for line in lines(result)),
        "",
        f"![{result['score']['title']} over the epochs, and differences]({PICTURE})",
        "",
        "## What was compared",
        "",
        f"- Data: {result['data']}" + (f", {limit:,} training images" if limit else "") + "; precision "
        f"{result['precision']}; seeds {', '.join(map(str, result['seeds']))}.",
        *(f"- Recipe: {line}." for line in sorted(recipes)),
        "- Of one seed all networks see the same images in the same order with the same random changes.",
        f"- {result['score']['title']}: of the last epoch, on the validation images; the best epoch would be chosen on "
        "the images that it is measured on. sd: standard deviation over the seeds. Interval: 95 %, Student's t of the "
        f"differences paired by seed{_resolution(result)}: what another seed would move, not what other images would.",
        "- saved: what a training step keeps for its backward pass. latency: one image. step: time of forward and "
        "backward over the first network's, timed in turns; training: wall clock of a run, which other work on the "
        "machine prolongs.",
    ]
    columns, table = size_rows(result)
    if table:
        text += ["", "## Other image sizes", "", _table(columns, table), "", SHIFT]
    text += [
        "",
        f"{result['date']}; {result['machine']}; " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()),
    ]
    return "\n".join(text) + "\n"


SHIFT = (
    "squeeze shift: how far what the squeeze gives moves from the training size to another: the mean over the "
    "channels of |mean there - mean here|, in standard deviations over the images here; averaged over the seeds."
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
    """Write report, picture and JSON, each atomically.

    Raises:
        SenetError: The folder can't be written to.
    """
    write_json(folder, "compare.json", result | {"command": command})
    write_atomically(folder / REPORT, lambda path: path.write_text(markdown(result, command), encoding="utf-8"))
    if result["finished_runs"]:
        write_atomically(folder / PICTURE, lambda path: draw(result, path))


def draw(result: dict[str, Any], path: Path) -> None:
    """The score over the epochs (a line a seed), and the differences with their intervals, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = {name: v for name, v in result["variants"].items() if v["runs"]}
    figure = Figure(figsize=(10, 3.2 + 0.16 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    curves, differences = figure.subplots(1, 2)
    for number, (name, variant) in enumerate(found.items()):
        colour = COLOURS[number % len(COLOURS)]
        for training_run, run in enumerate(variant["runs"].values()):
            score = [100 * value for value in run["curve"]]
            label = name if training_run == 0 else None
            curves.plot(range(1, len(score) + 1), score, color=colour, linewidth=1, alpha=0.8, label=label)
    curves.set_xlabel("epoch")
    curves.set_ylabel(_title(result))
    curves.grid(alpha=0.3)
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.legend(frameon=False, fontsize=8)
    _draw_differences(differences, found, result["score"]["title"])
    figure.suptitle(result["title"], fontsize=10)
    figure.savefig(path, dpi=120, format="png")


def _draw_differences(axes: Any, found: dict[str, Any], score: str) -> None:
    shown = [(name, v) for name, v in found.items() if v["difference_points"]]
    for height, (name, variant) in enumerate(reversed(shown)):
        colour, difference = COLOURS[list(found).index(name) % len(COLOURS)], variant["difference_points"]
        low, high = difference["interval"] or (difference["mean"],) * 2
        axes.plot([low, high], [height, height], color=colour, linewidth=2)
        axes.plot(difference["mean"], height, "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{name}\n- {v['against']}" for name, v in reversed(shown)], fontsize=8)
    axes.set_ylim(-0.6, max(len(shown), 1) - 0.4)
    axes.set_xlabel(f"difference of {score}, points (95 % interval)")
    axes.grid(alpha=0.3, axis="x")

"""Tables of retrofit_zoo.py: totals, failures and families."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["CONVOLUTIONAL", "FAILURES", "HYBRID", "TRANSFORMER", "kind", "outcome", "write"]

CONVOLUTIONAL, HYBRID, TRANSFORMER = "convolutional", "hybrid", "transformer or MLP"
FOUND, NOTHING, EXCLUDED = "insertion points", "nothing to do", "excluded"
FAILURES = ("no insertion point", "differs", "gates not reached", "error")

RULE = """Two numbers are counted in each network. **Convolutions** have a kernel that is larger than their stride. (A
patch embedding, which cuts an image into tiles, is none.) **Attentions** are modules that multiply two feature maps
with each other as matrices, in more than one row and column. A network is a *transformer or MLP*, and excluded, if it
has no such convolution, or at least one attention for every three of them (query, key and value). It is *hybrid* if it
has fewer attentions, and *convolutional* if it has none."""

# Reasons for which a block can't take attention, besides attention that it already has.
BY_NATURE = ("already has attention", "long skip over other blocks", "has no convolution", "without a convolution")

Record = Mapping[str, Any]


def kind(record: Record) -> str:
    """Return the kind of a network by `RULE`."""
    convolutions, attentions = record.get("convolutions", 1), record.get("attentions", 0)
    if 3 * attentions >= convolutions:
        return TRANSFORMER
    return HYBRID if attentions else CONVOLUTIONAL


def outcome(record: Record) -> str:
    """Return the outcome of a network's run."""
    if kind(record) == TRANSFORMER:
        return EXCLUDED
    if "error" in record:
        return "error"
    if not record["insertion_points"]:
        reasons = list(record.get("skipped", ()))
        carries = any(reason.endswith(BY_NATURE[0]) for reason in reasons)
        return NOTHING if carries and all(reason.endswith(BY_NATURE) for reason in reasons) else "no insertion point"
    if False in (record.get("identical"), record.get("identical_training")):
        return "differs"
    return (
        "gates not reached" if record.get("reached", record["insertion_points"]) < record["insertion_points"] else FOUND
    )


def write(records: Sequence[Record], total: int, folder: Path) -> None:
    """Write `retrofit_zoo.md`, and every record to `retrofit_zoo/results.csv`."""
    columns = ("name", "family", "params", "convolutions", "attentions", "insertion_points", "added", "identical",
               "identical_training", "reached", "size", "seconds")  # fmt: skip
    with (folder / "retrofit_zoo" / "results.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow((*columns, "kind", "outcome"))
        table.writerows([*(r.get(c, "") for c in columns), kind(r), outcome(r)] for r in records)
    (folder / "retrofit_zoo.md").write_text("\n".join(page(records, total)) + "\n")


def page(records: Sequence[Record], total: int) -> Iterable[str]:
    """Yield the lines of `retrofit_zoo.md`."""
    yield from (
        "# `senet.retrofit` over three libraries of networks",
        "",
        "```",
        "python benchmarks/retrofit_zoo.py",
        "```",
        "",
        "Every network of timm, torchvision (classification, detection, segmentation, video) and",
        "segmentation_models_pytorch (all decoders over ResNet-34, and U-Net over all encoders), with random weights.",
        "No gain, bias or running statistic is zero or one, since a zero would hide a change. Each network runs on",
        "one small batch before and after surgery. Outputs are compared bit for bit in evaluation mode. If a run",
        "takes less than two seconds, they are also compared in training mode with the same random numbers. Then a",
        "random projection of the outputs is sent backwards. Beyond 300 million parameters, insertion points are",
        "found but nothing is run.",
        "",
        RULE,
        "",
    )
    if len(records) < total:
        yield f"**Not finished:** {len(records):,} of {total:,} networks so far, the first of every family first."
        yield ""
    yield from summary(records)
    yield from failures(records)
    yield from families(records)
    yield "Every network: [retrofit_zoo/results.csv](retrofit_zoo/results.csv)."


def summary(records: Sequence[Record]) -> Iterable[str]:
    """Yield the table of totals."""
    yield "| | convolutional | hybrid |"
    yield "|---|---|---|"
    groups = [[r for r in records if kind(r) == k] for k in (CONVOLUTIONAL, HYBRID)]

    def row(name: str, count: Any) -> str:
        return f"| {name} | " + " | ".join(str(count(group)) for group in groups) + " |"

    def share(group: Sequence[Record]) -> str:
        todo = [r for r in group if outcome(r) != NOTHING]
        found = sum(bool(r.get("insertion_points")) for r in todo)
        return f"{found} of {len(todo)} ({100 * found / max(1, len(todo)):.1f}%)"

    def equal(key: str) -> Any:
        return lambda group: f"{sum(r[key] for r in group if key in r)} of {sum(key in r for r in group)}"

    def missed(r: Record) -> int:
        return int(r["insertion_points"] - r["reached"])

    yield row("networks", len)
    yield row("every block already has attention: nothing to do", lambda g: sum(outcome(r) == NOTHING for r in g))
    yield row("of the others, with insertion points", share)
    yield row("identical in evaluation mode, of those run", equal("identical"))
    yield row("identical in training mode, of those run", equal("identical_training"))
    yield row(
        "gradient reaches every gate, of those run",
        lambda g: f"{sum(not missed(r) for r in g if 'reached' in r)} of {sum('reached' in r for r in g)}",
    )
    yield row("insertion points", lambda g: f"{sum(r.get('insertion_points', 0) for r in g):,}")
    yield row(
        "not run: too large",
        lambda g: sum(bool(r.get("insertion_points")) and "identical" not in r and "error" not in r for r in g),
    )
    yield row(
        "seconds for one network, median", lambda g: sorted(r.get("seconds", 0) for r in g)[len(g) // 2] if g else 0
    )
    yield ""
    yield f"Excluded as transformers or MLPs: {sum(kind(r) == TRANSFORMER for r in records)}."
    yield ""


def failures(records: Sequence[Record]) -> Iterable[str]:
    """Yield the failures by name and cause."""
    failed = [r for r in records if outcome(r) in FAILURES]
    yield f"## Failures: {len(failed)}"
    yield ""
    for record in failed:
        cause = (
            record.get("error")
            or record.get("refused")
            or f"{record.get('reached')} of {record['insertion_points']} gates"
        )
        if outcome(record) == "no insertion point" and "refused" not in record:
            cause = "; ".join(f"{n} x {reason}" for reason, n in record["skipped"].items())
        yield f"- {record['name']} ({kind(record)}), {outcome(record)}: {cause[:240]}"
    yield ""


def families(records: Sequence[Record]) -> Iterable[str]:
    """Yield a table with one row per family."""
    yield "## Families"
    yield ""
    yield "| family | networks | with insertion points | nothing to do | excluded | failures | kinds of block |"
    yield "|---|---|---|---|---|---|---|"
    names = sorted({r["family"] for r in records})
    for name in names:
        group = [r for r in records if r["family"] == name]
        found = Counter(outcome(r) for r in group)
        blocks: Counter[str] = Counter()
        for record in group:
            if kind(record) != TRANSFORMER:
                blocks.update(record.get("blocks", {}))
        failed = sum(found[f] for f in FAILURES)
        shown = ", ".join(f"{block} {count:,}" for block, count in blocks.most_common())
        yield f"| {name} | {len(group)} | {found[FOUND]} | {found[NOTHING]} | {found[EXCLUDED]} | {failed} | {shown} |"
    yield ""

"""Check the prose of the README, the documentation and the help texts.

    python tools/check_prose.py              # every page and every command
    python tools/check_prose.py docs/index.md --hits

Code, tables, links' addresses, inline code and text in double quotes are left out. Limits, for each file and in all:
3 semicolons and 4 bare relatives per 1,000 words, a median sentence of 18 words, no banned word. A short file may have
one semicolon and one bare relative. Sentences over 25 words are listed, they are no error.

A bare relative is "what", "that", "those", "which" or "who" in place of a noun: "those that were skipped" makes the
reader look for the noun, "skipped images" does not. `BARE_RELATIVES` lists the forms. Ordinary relative clauses
("images that are corrupt"), "reports that ..." and questions are none.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SEMICOLONS, RELATIVES = 3, 4
"""Most per 1,000 words."""
MEDIAN, LONG = 18, 25
"""Words of a sentence: the largest median, and from where on sentences are listed."""

BARE_RELATIVES = {
    "what": r"\bwhat\b",
    "that of": r"\bthat (?=of\b|in\b|from\b|with\b|without\b|which\b|who\b)",
    "that, first word": r"^that (?=is\b|was\b|has\b|can\b|would\b|will\b|means\b|shows\b|gives\b|takes\b|costs\b)",
    "that, last word": r"\bthat(?=[.,:;)]|$)",
    "those": r"\bthose (?=of|in|from|with|without|that|which|who|it|they|we|you|the|a|are|were|is|to|for|on|by)\b",
    "those, last word": r"\bthose(?=[.,:;)]|$)",
    "which ones": r"\bwhich ones?\b",
    "which, last word": r"\bwhich(?=[.:;)]|$)",
    "says which": r"\b(?:says?|shows?|reports?|prints?|knows?|lists?|chooses?) which(?= \w+ (?:was|is|are|has|have)\b)",
    "whose it is": r"\bwhose (?:it|they|this)\b",
    "who, first word": r"^who(?:ever)?\b",
}
"""Name to pattern, searched in each sentence that is no question; case is ignored."""

BANNED = {
    r"house|houses": "architecture, package",
    r"rooms?": "packages",
    r"witness(?:es)?": "comparison, evidence",
    r"honest(?:ly)?": "exact, or nothing",
    r"say|says|said|saying": "report, print, show, describe",
    r"tell|tells|told|telling": "report, print, distinguish",
    r"trouble|troubles": "issue, problem",
    r"pictures?": "image, figure",
    r"no numbers?": "non-finite",
    r"processors?": "CPU",
    r"broken (?:images?|files?)": "corrupt or unreadable image",
    r"verbs?": "command",
    r"keepers?": "training checkpointer",
    r"roll ?calls?": "heartbeat",
    r"tails?": "residual epilogue",
    r"misfits?": "mismatches",
    r"kin": "related",
    r"upstream": "external models",
    r"residual units?": "residual block",
    r"(?<!feature )(?<!activation )(?<!heat )(?<!saliency )maps(?! [^.;:]*\bto\b)": "feature maps",
    r"the (?:large |small |whole |same |rounded )?map": "the feature map",
    r"anew|afresh": "again, from random weights",
    r"anybody|anybody's|everybody": "any user, other libraries",
    r"nobody|nothing of the kind": "no user, none",
    r"arms?": "variant",
}
"""Pattern of whole words to the words to use; case is ignored."""

ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|et al|vs|Figs?|Eqs?|approx|etc)\.(?=\s)")
LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+")


@dataclass
class Page:
    """The prose of a file.

    Attributes:
        name: Shown in the table.
        blocks: Paragraphs, list items and help texts.
        headings: Count as words and for banned words, but are no sentences.
    """

    name: str
    blocks: list[str]
    headings: list[str] = field(default_factory=list)

    @property
    def words(self) -> int:
        """Words of all text."""
        return sum(len(words(text)) for text in (*self.headings, *self.blocks))

    @property
    def sentences(self) -> list[str]:
        """Sentences of all blocks."""
        return [sentence for block in self.blocks for sentence in sentences(block)]

    @property
    def semicolons(self) -> list[str]:
        """A sentence for each semicolon."""
        return [text for text in (*self.headings, *self.sentences) for _ in range(text.count(";"))]

    @property
    def relatives(self) -> list[str]:
        """`form: sentence` for each bare relative."""
        texts = (*self.headings, *(text for text in self.sentences if not text.endswith("?")))
        return [f"{form}: {text}" for text in texts for form in bare_relatives(text)]

    @property
    def banned(self) -> list[str]:
        """`word -> better: sentence` for each banned word."""
        texts = (*self.headings, *self.sentences)
        return [f"{word} -> {better}: {text}" for text in texts for word, better in banned_words(text)]

    @property
    def median(self) -> float:
        """Words of the median sentence."""
        return statistics.median([len(words(sentence)) for sentence in self.sentences] or [0])

    @property
    def long(self) -> list[str]:
        """Sentences over `LONG` words, the longest first."""
        found = [text for text in self.sentences if len(words(text)) > LONG]
        return sorted(found, key=lambda text: -len(words(text)))

    def excesses(self) -> list[str]:
        """The limits that the page is above."""
        semicolons, relatives = max(1, SEMICOLONS * self.words / 1000), max(1, RELATIVES * self.words / 1000)
        return [
            *(["semicolons"] if len(self.semicolons) > semicolons else []),
            *(["bare relatives"] if len(self.relatives) > relatives else []),
            *(["median sentence"] if self.median > MEDIAN else []),
            *(["banned words"] if self.banned else []),
        ]


def words(text: str) -> list[str]:
    """Words of a text; a piece of inline code is one."""
    return re.findall(r"[^\W_][\w'\u2019.,%-]*", text)


def sentences(block: str) -> list[str]:
    """Sentences of a block."""
    held = ABBREVIATIONS.sub("\\1\u2024", block)
    found = re.split(r"(?<=[.!?])[)\]*]*\s+(?=[(\[*]*[A-Z0-9])", held)
    return [sentence.replace("\u2024", ".").strip() for sentence in found if words(sentence)]


def bare_relatives(sentence: str) -> list[str]:
    """Names of the forms in a sentence, one for each place."""
    return [name for name, form in BARE_RELATIVES.items() for _ in re.finditer(form, sentence, re.IGNORECASE)]


def banned_words(text: str) -> list[tuple[str, str]]:
    """Banned words in a text, with the words to use."""
    return [
        (hit[0], better)
        for pattern, better in BANNED.items()
        for hit in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, re.IGNORECASE)
    ]


def markdown_page(name: str, text: str) -> Page:
    """The prose of a Markdown file."""
    text = re.sub(r"\A---\n.*?\n---\n|<!--.*?-->", "", text, flags=re.DOTALL)
    page, lines = Page(name, []), list[str]()

    def finish() -> None:
        if lines and (block := _plain(" ".join(lines))):
            page.blocks.append(block)
        lines.clear()

    fence = ""
    for line in text.splitlines():
        bare = line.strip()
        if marker := re.match(r"```+|~~~+", bare):
            finish()
            fence = "" if fence and bare.startswith(fence) else fence or marker[0]
        elif fence:
            continue
        elif heading := re.match(r"#+\s+(.*?)(?:\s*\{.*\})?$", bare):
            finish()
            page.headings.append(_plain(heading[1]))
        elif not bare or re.match(r"\||:::|!!!|\?\?\?|===|-{3,}$|\[\^?[^\]]+\]:", bare):
            finish()
        else:
            if item := LIST_ITEM.match(line):
                finish()
            lines.append(line[item.end() if item else 0 :].strip())
    finish()
    return page


def _plain(text: str) -> str:
    """Text without markup, code, addresses and quotations."""
    text = re.sub(r"``.+?``|`[^`]*`", "CODE", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)(?:\{[^}]*\})?", "", text)
    text = re.sub(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])(?:\{[^}]*\})?", r"\1", text)
    text = re.sub(r"<?https?://[^\s>)]+>?", "LINK", text)
    text = re.sub(r"<[^>]+>|&\w+;|:(?:material|octicons|fontawesome)-[\w-]+:", " ", text)
    text = re.sub(r'"[^"]*"|\u201c[^\u201d]*\u201d', "QUOTE", text)
    return re.sub(r"\s+", " ", text.replace("**", "")).strip()


def help_pages() -> Iterator[Page]:
    """The help text of each command: its description without examples, and each option's text."""
    sys.path.insert(0, str(ROOT / "src"))
    from cli_reference import commands, program

    for name, parser in {"": program(), **commands()}.items():
        title = " ".join(filter(None, ("senet", name, "--help")))
        yield Page(title, [_plain(text) for text in _help_texts(parser)])


def _help_texts(parser: argparse.ArgumentParser) -> Iterator[str]:
    for paragraph in (parser.description or "").split("\n\n"):
        yield " ".join(line for line in paragraph.splitlines() if not line.startswith("  "))
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help and action.help != argparse.SUPPRESS:
            yield formatter._expand_help(action)


def prose_files() -> list[Path]:
    """README, CONTRIBUTING and the English pages."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(page for page in pages if ".zh" not in page.name)]


def table(pages: Iterable[Page]) -> list[str]:
    """A line for each page."""
    head = (
        "file",
        "words",
        "sentences",
        "semicolons",
        "/1000",
        "relatives",
        "/1000",
        "median",
        ">25",
        "banned",
        "above",
    )
    rows = [head]
    for page in pages:
        per = 1000 / max(page.words, 1)
        counts = (len(page.semicolons), len(page.relatives))
        rows.append((
            page.name, str(page.words), str(len(page.sentences)), str(counts[0]), f"{counts[0] * per:.1f}",
            str(counts[1]), f"{counts[1] * per:.1f}", f"{page.median:g}", str(len(page.long)), str(len(page.banned)),
            ", ".join(page.excesses()) or "-",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def total(name: str, pages: Iterable[Page]) -> Page:
    """All pages as one."""
    pages = list(pages)
    return Page(name, [b for page in pages for b in page.blocks], [h for page in pages for h in page.headings])


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each file; 1 if one is above a limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="Markdown files (default: all pages and help texts)")
    parser.add_argument("--hits", action="store_true", help="list every finding, also of files within the limits")
    parser.add_argument("--longest", type=int, default=5, metavar="N", help="sentences to list (default: 5)")
    options = parser.parse_args(arguments)
    files = options.files or prose_files()
    groups = [("all pages", [markdown_page(_name(file), file.read_text(encoding="utf-8")) for file in files])]
    if not options.files:
        groups.append(("all help texts", list(help_pages())))
    pages = [page for name, found in groups for page in (*found, total(name, found))]
    print(*table(pages), sep="\n")
    for name, found in groups:
        for page in found:
            above = page.excesses()
            for title, hits in (("banned words", page.banned), ("bare relatives", page.relatives),
                                ("semicolons", page.semicolons)):  # fmt: skip
                if hits and (options.hits or title in above):
                    print(f"\n{page.name}, {title}:", *hits, sep="\n  ")
        longest = total(name, found).long[: options.longest]
        if longest:
            print(f"\nlongest sentences of {name}:")
            print(*(f"  {len(words(text))} words: {text}" for text in longest), sep="\n")
    return int(any(page.excesses() for page in pages))


def _name(file: Path) -> str:
    full = file.resolve()
    return str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else str(file)


if __name__ == "__main__":
    sys.exit(main())

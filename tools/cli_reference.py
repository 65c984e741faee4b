"""The command-line reference as Markdown, from the parsers themselves."""

from __future__ import annotations

import argparse
import html
import re
import textwrap
from collections.abc import Iterator

from senet.cli import make_parser


def cli_markdown() -> str:
    """A section for each command: description, usage, and a table for each group of options."""
    parts: list[str] = []
    for name, command in commands().items():
        parts += [
            f"## senet {name} {{#{name}}}",
            *_description(command),
            _fence(_usage(command)),
            *_groups(name, command),
        ]
    return "\n\n".join(parts)


def program() -> argparse.ArgumentParser:
    """The parser of `senet` itself."""
    made = make_parser()
    return made[0] if isinstance(made, tuple) else made


def commands() -> dict[str, argparse.ArgumentParser]:
    """Name to the parser of each command."""
    (action,) = (a for a in program()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def _description(command: argparse.ArgumentParser) -> Iterator[str]:
    for paragraph in (command.description or "").strip().split("\n\n"):
        lines = paragraph.splitlines()
        text = " ".join(line for line in lines if not line.startswith("  "))
        examples = [line[2:] for line in lines if line.startswith("  ")]
        if text:
            yield _escaped(text)
        if examples:
            yield _fence("\n".join(examples))


def _usage(command: argparse.ArgumentParser) -> str:
    return textwrap.dedent(command.format_usage().replace("usage: ", " " * len("usage: "), 1)).strip()


def _groups(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    formatter = command._get_formatter()
    for group in command._action_groups:
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS]
        if not actions:
            continue
        title = (group.title or "options").capitalize()
        rows = [f"| {title} | |", "|---|---|"]
        for action in actions:
            text = formatter._expand_help(action) if action.help else ""
            rows.append(f"| <span id='{anchor(name, action)}'></span>{_names(formatter, action)} | {_escaped(text)} |")
        if group.description:
            yield _escaped(group.description)
        yield "\n".join(rows)


def anchor(name: str, action: argparse.Action) -> str:
    """The id of an option's row; a positional argument has its name in capitals."""
    return f"{name}-{max(action.option_strings, key=len, default=action.dest.upper()).lstrip('-')}"


def _names(formatter: argparse.HelpFormatter, action: argparse.Action) -> str:
    names = action.option_strings or [""]
    if not action.option_strings or action.nargs != 0:
        value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        names = [f"{option} {value}".strip() for option in names[-1:]]
    return ", ".join(f"`{text}`" for text in names).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Plain text as Markdown: options and what stands in backticks as code, nothing else with a meaning."""
    parts = re.split(r"(`[^`]+`)", re.sub(r"\s+", " ", text))
    return "".join(part.replace("|", "\\|") if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    text = re.sub(r"([*_|\[\]`])", r"\\\1", html.escape(text, quote=False))
    return re.sub(r"(?<![\w-])(--[a-z][a-z0-9-]*)", r"`\1`", text)


def _fence(text: str) -> str:
    return f"```console\n{text}\n```"

"""The API reference: every public name with its docstring, every class and function with an example."""

from __future__ import annotations

import inspect
import re

import pytest
from public_api import PACKAGES, public_names, public_objects

import senet


@pytest.fixture(scope="session")
def anchors(site) -> set[str]:
    return {
        anchor
        for page in (site.folder / "reference" / "api").glob("*.html")
        for anchor in re.findall(r'id="([\w.]+)"', page.read_text(encoding="utf-8"))
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package, anchors):
    assert not [name for name in public_names(package) if f"{package}.{name}" not in anchors]


def test_every_name_of_the_package_itself_is_in_the_reference(site):
    text = site.text("reference/api/senet.html")
    assert not [name for name in senet.__all__ if f"<code>{name}</code>" not in text]


def test_nothing_else_is_in_the_reference(anchors):
    """What is rendered at the first level of a page is public."""
    for package in PACKAGES:
        shown = {anchor.removeprefix(f"{package}.") for anchor in anchors if re.fullmatch(rf"{package}\.\w+", anchor)}
        others = {other.removeprefix(f"{package}.") for other in PACKAGES}
        assert shown - others <= set(public_names(package)), package


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_class_and_function_has_an_example(package):
    missing = [name for name, value in without_examples().items() if name.startswith(f"{package}.") and value]
    assert not missing


def without_examples() -> dict[str, bool]:
    """Dotted name to whether its docstring has no example, for each public class and function."""
    callables = {n: v for n, v in public_objects().items() if inspect.isclass(v) or inspect.isfunction(v)}
    return {name: not re.search(r"^Example:\n+ +>>> ", inspect.getdoc(value) or "", re.MULTILINE)
            for name, value in callables.items()}  # fmt: skip

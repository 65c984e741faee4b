"""The built site: no warnings, all links lead somewhere, nothing is fetched from elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from cli_reference import anchor, commands

LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
}
LOADING_RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "manifest",
}


class Page(HTMLParser):
    """Anchors, links and loaded resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADS and LOADS[tag] in given:
            self.loaded.append(given[LOADS[tag]])
        if tag == "link" and set(given.get("rel", "").split()) & LOADING_RELATIONS:
            self.loaded.append(given["href"])


@pytest.fixture(scope="session")
def pages(site) -> dict[Path, Page]:
    # 404.html is for a server's root: its links are absolute.
    found = [path for path in site.folder.rglob("*.html") if path.name != "404.html"]
    assert found, site.log
    return {path: Page(path.read_text(encoding="utf-8")) for path in found}


def test_the_site_builds_without_a_warning(site):
    assert site.code == 0, site.log
    assert "WARNING" not in site.log


def local_links(pages: dict[Path, Page]) -> Iterator[tuple[Path, str]]:
    for path, page in pages.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if not parts.scheme and not parts.netloc:
                yield path, link


def test_every_local_link_leads_to_a_file_and_an_anchor(pages, record_property, site):
    lost, count = [], 0
    for path, link in local_links(pages):
        count += 1
        parts = urlsplit(link)
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        anchor = unquote(parts.fragment)
        known = pages[target].anchors if target in pages else {anchor}
        if not target.exists() or (anchor and anchor not in known):
            lost.append(f"{path.relative_to(site.folder)}: {link}")
    record_property("local links", count)
    assert not lost
    assert count > 1000
    print(f"{count} local links in {len(pages)} pages")


def test_nothing_is_loaded_from_the_network(pages, site):
    loaded = {(path.relative_to(site.folder), url) for path, page in pages.items() for url in page.loaded}
    remote = sorted((str(path), url) for path, url in loaded if urlsplit(url).scheme not in ("", "data"))
    assert not remote
    styles = [path for path in site.folder.rglob("*.css") if "url(http" in path.read_text(encoding="utf-8")]
    assert not styles


def test_external_links_are_ordinary_links(pages):
    external = sorted(
        {link for page in pages.values() for link in page.links if urlsplit(link).scheme not in ("", "mailto")}
    )
    assert all(urlsplit(link).scheme in ("http", "https") and urlsplit(link).netloc for link in external)
    print(f"{len(external)} external links, not followed:", *external, sep="\n  ")


def test_search_works_without_a_server(site):
    assert site.text("search/search_index.js").startswith("var __index")
    assert "assets/javascripts/iframe-worker.js" in site.text("index.html")


def test_the_command_line_reference_has_every_command_and_option(site):
    text = site.text("reference/cli.html")
    page = Page(text)
    for name, command in commands().items():
        assert name in page.anchors
        for action in command._actions:
            if action.help != argparse.SUPPRESS:
                assert anchor(name, action) in page.anchors

"""Reads a report as a browser would: its sections, pictures, texts, and the data behind the links."""

from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

SECTIONS = (
    "leaderboard",
    "confirmation",
    "classes",
    "curves",
    "families",
    "parameters",
    "thresholds",
    "predictions",
    "ledger",
    "plan",
    "diagnoses",
    "manifest",
)


@dataclass
class ReadSection:
    """What one section holds."""

    title: str = ""
    words: str = ""
    nothing: str = ""
    plots: dict[str, dict[str, Any]] = field(default_factory=dict)
    alts: list[str] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    figures: int = 0
    tables: int = 0
    data: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """The CSV files, by name."""


class ReportPage(HTMLParser):
    """The sections of a report by their ids. `addresses`: whatever an element refers to."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: dict[str, ReadSection] = {}
        self.addresses: list[str] = []
        self.metas: list[dict[str, str]] = []
        self.header = ""
        self._open: list[str] = []
        self._section: ReadSection | None = None
        self._plot = ""
        self._class: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.addresses += [given[name] for name in ("src", "href", "action", "data") if name in given]
        if tag == "meta":
            self.metas.append(given)
            return
        if tag == "section":
            self._section = self.sections.setdefault(given["id"], ReadSection())
        if self._section is not None:
            self._note(tag, given)
        if tag not in ("img", "meta", "link", "br"):
            self._open.append(tag)
            self._class.append(given.get("class", ""))

    def _note(self, tag: str, given: dict[str, str]) -> None:
        assert self._section is not None
        self._section.figures += tag == "figure"
        self._section.tables += tag == "table"
        if given.get("role") == "img":
            self._section.alts.append(given["aria-label"])
        if tag == "img":
            self._section.images.append(given)
        if tag == "script":
            self._plot = given.get("data-plot", "")
        if "download" in given:
            encoded = given["href"].removeprefix("data:text/csv;base64,")
            text = base64.b64decode(encoded).decode()
            self._section.data[given["download"]] = list(csv.DictReader(io.StringIO(text)))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            self._class.pop()
        self._class.pop()
        if tag == "section":
            self._section = None

    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        if "header" in self._open:
            self.header += data
        if self._section is None:
            return
        if tag == "script":
            self._section.plots[self._plot] = json.loads(data)
        elif tag == "h2":
            self._section.title += data
        elif self._class[-1] == "nothing":
            self._section.nothing += data
        else:
            self._section.words += data + " "


def read_report(path: Path) -> ReportPage:
    return ReportPage(path.read_text(encoding="utf-8"))

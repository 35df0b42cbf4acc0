"""Sections to one HTML file that needs nothing outside itself.

Every picture brings its text alternative and its data. The data are a CSV file inside the page, behind the link below
the picture (a `data:` address), so that they stay with the picture wherever the file is copied. The page forbids itself
any request to a network (Content-Security-Policy).
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from trainables.files import write_text
from tune_app.errors import InputError, written
from tune_app.results.tables import MISSING, cells, csv_text, fit, header

GENERATOR = "tune_app report"
"""What the page says of itself, so that a later report may replace it."""
PAPER_CHARACTERS = 150
"""Characters of a table's line that fit on an upright A4 page."""
ROW_NAME, IMAGE = 92, 190
"""CSS pixels for the name of a gallery's row, and for one image at most."""
KEYS = ("rank", "name", "trial", "key", "kind", "class")
"""Columns that each part of a table too wide for one page begins with."""
NUMBER = re.compile(r"-|[-+]?\d[\d.,]*(e[-+]?\d+)?%?")
ALIGNED = {True: ' class="number"', False: ""}
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawn picture. key: unique in the page, names its CSV. alt: what it shows, in words. data: what it is drawn
    from, one row per mark."""

    key: str
    title: str
    alt: str
    figure: go.Figure
    data: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image of a gallery: a PNG, and what it shows in words."""

    png: bytes
    alt: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Images in rows and columns. legend: (colour, name) pairs. columns and rows are headed by their names."""

    key: str
    title: str
    alt: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Image]]]
    data: pd.DataFrame
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. data: what its CSV holds, the shown frame where it is None. folded: shown only when asked for.

    droppable: columns that go first where the table is too wide for paper. headers: of columns, where they are not to
    be headed as everywhere else.
    """

    key: str
    title: str
    frame: pd.DataFrame
    data: pd.DataFrame | None = None
    folded: bool = False
    droppable: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report. nothing: why there is nothing to show, where there is nothing. text: paragraphs before the
    parts."""

    key: str
    title: str
    text: Sequence[str] = ()
    parts: Sequence[Plot | Gallery | Table] = ()
    nothing: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole report. facts: (name, value) pairs under the title. notices: what must be known first."""

    title: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    notices: Sequence[str] = ()
    footer: str = ""
    reload_s: float = 0.0
    """After so many seconds the page loads itself again, where it was; 0: never."""
    language: str = field(default="en")


def render(page: Page) -> str:
    """The page as HTML."""
    notices = "".join(f'<p class="notice">{text(notice)}</p>' for notice in page.notices)
    facts = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in page.facts)
    links = "".join(f'<li><a href="#{s.key}">{text(s.title)}</a></li>' for s in page.sections)
    sections = "".join(map(section_html, page.sections))
    reload = f' data-reload="{page.reload_s:g}"' if page.reload_s else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{page.language}"{reload}><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="{GENERATOR}">\n<title>{text(page.title)}</title>\n'
        f"<style>{asset('page.css')}</style></head>\n<body>\n"
        f"<header><h1>{text(page.title)}</h1>{notices}<dl>{facts}</dl></header>\n"
        f'<nav aria-label="Sections"><ol>{links}</ol></nav>\n<main>{sections}</main>\n'
        f"<footer>{text(page.footer)}</footer>\n"
        "<noscript><p>The plots need JavaScript; tables, texts and data do not.</p></noscript>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{asset('page.js')}</script>\n</body></html>\n"
    )


def save(page: Page, path: Path) -> None:
    """Write a page, whole or not at all. Raises InputError where it cannot be written."""
    content = render(page)
    with written(f"out={path}", f"Choose another file, for example out=$HOME/{path.name}."):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, content)


def refuse_to_replace(path: Path) -> None:
    """InputError where `path` holds anything but a page of ours."""
    if path.is_dir():
        raise InputError(f"out={path}: is a folder. Choose another name.")
    try:
        with path.open("rb") as file:
            head = file.read(2000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"out={path}: cannot be read ({error.strerror}). Choose another name.") from None
    if head and GENERATOR.encode() not in head:
        raise InputError(f"out={path}: exists and is no report, so it is not replaced. Choose another name.")


def section_html(section: Section) -> str:
    """One section with its heading."""
    paragraphs = "".join(f"<p>{text(paragraph)}</p>" for paragraph in section.text)
    nothing = f'<p class="nothing">{text(section.nothing)}</p>' if section.nothing else ""
    parts = "".join(map(part_html, section.parts))
    return (
        f'<section id="{section.key}" aria-labelledby="{section.key}-title">'
        f'<h2 id="{section.key}-title">{text(section.title)}</h2>{paragraphs}{nothing}{parts}</section>\n'
    )


def part_html(part: Plot | Gallery | Table) -> str:
    if isinstance(part, Plot):
        return plot_html(part)
    return gallery_html(part) if isinstance(part, Gallery) else table_html(part)


def plot_html(plot: Plot) -> str:
    """A figure that page.js draws from the JSON beside it."""
    height = plot.figure.layout.height or 400
    drawn = plot.figure.to_json().replace("</", "<\\/")
    return figure_html(
        plot.key,
        plot.title,
        plot.alt,
        plot.data,
        f'<div class="plot" id="{plot.key}" role="img" aria-label="{text(plot.alt)}" style="height:{height}px"></div>'
        f'<script type="application/json" data-plot="{plot.key}">{drawn}</script>',
    )


def gallery_html(gallery: Gallery) -> str:
    """Images as a table: a row per kind of picture, a column per patch."""
    columns = "".join(f'<th scope="col">{text(name)}</th>' for name in gallery.columns)
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th>{"".join(map(image_cell, gallery.columns, images))}</tr>'
        for name, images in gallery.rows
    )
    chips = "".join(f'<li><span style="background:{c}"></span>{text(name)}</li>' for c, name in gallery.legend)
    return figure_html(
        gallery.key,
        gallery.title,
        gallery.alt,
        gallery.data,
        f'<ul class="legend">{chips}</ul><div class="wide" tabindex="0"><table class="gallery" '
        f'style="max-width:{ROW_NAME + IMAGE * len(gallery.columns)}px">'
        f"<thead><tr><td></td>{columns}</tr></thead><tbody>{rows}</tbody></table></div>",
    )


def image_cell(column: str, image: Image) -> str:
    data = base64.b64encode(image.png).decode()
    shown = f'<img alt="{text(image.alt)}" src="data:image/png;base64,{data}">'
    return f'<td data-of="{text(column)}">{shown}</td>'


def figure_html(key: str, title: str, alt: str, data: pd.DataFrame, inside: str) -> str:
    """The frame that every picture has: its name above, its text alternative and its data below."""
    return (
        f"<figure><h3>{text(title)}</h3>{inside}<figcaption>{text(alt)} "
        f"{csv_link(key, title, data)}</figcaption></figure>\n"
    )


def table_html(table: Table) -> str:
    """A table with its CSV; folded ones open on a click. One too wide for paper is laid out over several."""
    pages = "".join(
        frame_html(page, table.headers) for page in fit(table.frame, PAPER_CHARACTERS, table.droppable, KEYS)
    )
    link = csv_link(table.key, table.title, table.frame if table.data is None else table.data)
    inner = f'{pages}<p class="data">{link}</p>'
    if table.folded:
        return f'<details id="{table.key}"><summary>{text(table.title)}</summary>{inner}</details>\n'
    return f'<div id="{table.key}"><h3>{text(table.title)}</h3>{inner}</div>\n'


def frame_html(frame: pd.DataFrame, headers: Mapping[str, str]) -> str:
    """The rows of a frame; columns of numbers, written out or not, are aligned to the right."""
    shown = cells(frame)
    right = [all(NUMBER.fullmatch(row[place]) for row in shown) for place in range(len(frame.columns))]
    names = [text(headers.get(name, header(str(name)))) for name in frame.columns]
    head = "".join(f'<th scope="col"{ALIGNED[r]}>{name}</th>' for name, r in zip(names, right))
    # Each cell brings the name of its column, which stands beside it where the screen is narrow.
    cell = '<td{} data-of="{}">{}</td>'.format
    rows = ("".join(map(cell, (ALIGNED[r] for r in right), names, map(text, row))) for row in shown)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def csv_link(key: str, title: str, data: pd.DataFrame) -> str:
    """A link that saves the data of a picture or table as KEY.csv."""
    encoded = base64.b64encode(csv_text(data).encode()).decode()
    return (
        f'<a class="csv" download="{key}.csv" href="data:text/csv;base64,{encoded}" '
        f'aria-label="Data of {text(title)} as CSV">data (CSV)</a>'
    )


def text(value: Any) -> str:
    """Any value as text that HTML shows as it is, in an attribute too."""
    return html.escape(str(value), quote=True)


def short(value: float, digits: int = 4) -> str:
    """A score for a sentence; `-` where there is none."""
    return MISSING if value is None or value != value else f"{value:.{digits}f}"


def asset(name: str) -> str:
    return resources.files("tune_app.reporting").joinpath(name).read_text(encoding="utf-8")

"""Frames as text: tables for a terminal, plain tables, Markdown, and plain values for JSON."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tune_app.terminal import plain

MISSING = "-"
HEADERS = {
    "mean_dice": "mean Dice", "mean_iou": "mean IoU", "best_epoch": "best epoch", "arm_trials": "trials of arm",
    "best_arm": "best arm", "calibrated_mean_dice": "calibrated", "threshold_gap": "gap",
}  # fmt: skip

FORMATS = {"minutes": ".1f", "threshold_gap": "+.4f", "gap": "+.4f"}


def cell(column: str, value: Any) -> str:
    """One value as people read it: scores with four digits, gaps signed, minutes with one digit, nothing as `-`."""
    if isinstance(value, list | tuple):
        return plain(" = ".join(map(str, value)))
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) or value == "":
        return MISSING
    if isinstance(value, float | np.floating):
        return f"{value:{FORMATS.get(column, '.4f')}}"
    return plain(str(value))


def header(column: str) -> str:
    """dice/nuc reads nuc, iou/nuc reads IoU nuc."""
    column = plain(column)
    if column.startswith("dice/"):
        return column[5:]
    return HEADERS.get(column, column.replace("iou/", "IoU ").replace("calibrated/", "calibrated ").replace("_", " "))


def counted(number: int, what: str, plural: str = "") -> str:
    """1 trial, 2 trials."""
    return f"{number} {what if number == 1 else plural or what + 's'}"


def cells(frame: pd.DataFrame) -> list[list[str]]:
    return [[cell(c, v) for c, v in zip(frame.columns, row)] for row in frame.itertuples(index=False, name=None)]


def to_plain(value: Any) -> Any:
    """A value that strict JSON can hold: NaN and NA become null, NumPy numbers Python's."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as plain dicts."""
    rows = frame.itertuples(index=False, name=None)
    return [{str(c): to_plain(v) for c, v in zip(frame.columns, row)} for row in rows]


def markdown(frame: pd.DataFrame) -> str:
    """A GitHub table; numbers are right-aligned."""
    escaped = [[markdown_text(text) for text in row] for row in cells(frame)]
    lines = [
        [markdown_text(header(c)) for c in frame.columns],
        ["---:" if _is_number(frame[c]) else "---" for c in frame.columns],
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [*lines, *escaped])


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, link, picture, or end of a cell comes of it."""
    return re.sub(r"[\\|\[\]`]", r"\\\g<0>", html.escape(text, quote=False)).replace("\n", " ")


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as CSV, exact. A text that a spreadsheet would compute as a formula gets an apostrophe before it."""

    def as_text(value: Any) -> Any:
        formula = isinstance(value, str) and re.match(r"[=@\t\r]|[+-](?!$|[\d.]+$)", value)
        return f"'{value}" if formula else value

    columns = {as_text(c): pd.Series([as_text(value) for value in frame[c]], dtype=object) for c in frame.columns}
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")


def text_table(frame: pd.DataFrame, width: int | None, *, color: bool = False, bold_first: bool = False) -> str:
    """A table of at most `width` characters per line (None: as wide as it needs), by rich."""
    table = Table(box=box.SIMPLE_HEAD if color else box.MINIMAL, pad_edge=False, show_edge=False)
    if not color:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in frame.columns:
        right = _is_number(frame[column])
        table.add_column(header(column), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for index, row in enumerate(cells(frame)):
        table.add_row(*map(Text, row), style="bold" if bold_first and index == 0 else "")
    return draw(table, width or 10_000, color=color)


def draw(renderable: Any, width: int, *, color: bool) -> str:
    """A rich renderable as text without trailing blanks."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=color, color_system="standard" if color else None,
        highlight=False, legacy_windows=False,
    )  # fmt: skip
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def natural_width(frame: pd.DataFrame) -> int:
    """Characters a line of `text_table` needs, three between columns."""
    columns = zip(*[[header(c) for c in frame.columns], *cells(frame)])
    return sum(max(map(len, column)) + 3 for column in columns)


def fit(frame: pd.DataFrame, width: int | None, droppable: Sequence[str], key: Sequence[str]) -> list[pd.DataFrame]:
    """The frame as one or more frames that fit the width.

    First the `droppable` columns go, in that order; then the remaining columns are laid out over several tables, each
    of which begins with the `key` columns.
    """
    for column in droppable:
        if width is None or natural_width(frame) <= width:
            break
        frame = frame.drop(columns=[column], errors="ignore")
    if width is None or natural_width(frame) <= width:
        return [frame]
    head = [c for c in key if c in frame.columns]
    pages: list[list[str]] = [[]]
    for column in (c for c in frame.columns if c not in head):
        if pages[-1] and natural_width(frame[[*head, *pages[-1], column]]) > width:
            pages.append([])
        pages[-1].append(str(column))
    return [frame[[*head, *page]] for page in pages]


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)

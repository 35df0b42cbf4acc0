"""Frames as text: tables for a terminal, plain tables, Markdown, and plain values for JSON."""

from __future__ import annotations

import html
import io
import math
import re
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainables.calibration import CALIBRATED
from tune_app.settings.document import to_plain
from tune_app.settings.terminal import plain

MISSING = "-"
HEADERS = {
    "best_epoch": "best epoch",
    "arm_trials": "trials of arm",
    "best_arm": "best arm",
    CALIBRATED: "calibrated",
    "threshold_gap": "gap",
}

WORDS = {"dice": "Dice", "iou": "IoU"}
"""Names that are written with capitals."""
LEAST_NAME, LEAST_SENTENCE = 16, 24
"""Characters that a column of names, or of sentences, is left."""
GAP, PAPER_GAP = 2, 3
COMMAND = re.compile(r"python -m \S+(?: [\w.+]+=\S+)*")
FORMATS = {
    **dict.fromkeys(("GPU-hours", "CPU-hours", "score per GPU-hour", "score per CPU-hour", "device_hours"), ".4g"),
    "memory GB": ".1f",
    "minutes": ".1f",
    "threshold_gap": "+.4f",
    "gap": "+.4f",
    "violation": ".4g",
}


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
    """dice/nuc reads nuc, iou/nuc reads IoU nuc, mean_iou reads mean IoU."""
    column = plain(column)
    if column.startswith("dice/"):
        return column[5:]
    words = re.sub(r"(?<![a-z])(dice|iou)(?![a-z])", lambda found: WORDS[found[0]], column.replace("_", " "))
    return HEADERS.get(column, re.sub(r"^(IoU|calibrated)/", r"\1 ", words))


def in_words(figure: str) -> str:
    """A figure in a sentence, where no other heading says what it is of: dice/nuc reads Dice nuc."""
    return f"Dice {header(figure)}" if figure.startswith("dice/") else header(figure)


def counted(number: int, what: str, plural: str = "") -> str:
    """1 trial, 2 trials."""
    return f"{number} {what if number == 1 else plural or what + 's'}"


def cells(frame: pd.DataFrame) -> list[list[str]]:
    return [[cell(c, v) for c, v in zip(frame.columns, row)] for row in frame.itertuples(index=False, name=None)]


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
    """A table of at most `width` characters per line (None: as wide as it needs), by rich.

    A number is shown whole. Where the room ends, sentences are wrapped between words, then names lose their middle.
    """
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    if color:  # its box draws one of the blanks
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_edge=False)
    needs = _needs(frame)
    rooms = _rooms(needs, width)
    for column, room in zip(frame.columns, rooms):
        heading = header(column) if width is None else _wrapped(header(column), room)
        table.add_column(heading, justify="right" if _is_number(frame[column]) else "left", no_wrap=True)
    for index, row in enumerate(cells(frame)):
        fitted = [(shortened if need.name else _wrapped)(text, room) for text, room, need in zip(row, rooms, needs)]
        table.add_row(*map(Text, fitted), style="bold" if bold_first and index == 0 else "")
    return draw(table, 10_000, color=color)


def text_pages(
    frame: pd.DataFrame,
    width: int | None,
    droppable: Sequence[str] = (),
    key: Sequence[str] = (),
    *,
    color: bool = False,
    bold_first: bool = False,
) -> str:
    """The frame as `fit` lays it out, each page as `text_table` draws it."""
    pages = fit(frame, width, droppable, key, shortened=True)
    return "\n\n".join(text_table(page, width, color=color, bold_first=bold_first) for page in pages)


def shortened(text: str, room: int) -> str:
    """The text, without its middle where it is longer than `room`: seesaw_p0…count."""
    tail = (room - 1) // 2
    return text if len(text) <= room else f"{text[: room - 1 - tail]}…{text[len(text) - tail :]}"


def sentences(text: str, width: int | None, indent: str = "") -> str:
    """The text wrapped between words, with `indent` before what follows; command lines stay whole: they are copied."""
    if width is None:
        return text
    whole = COMMAND.sub(lambda found: found[0].replace(" ", "\0"), text)
    wrapper = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    lines = map(wrapper.wrap, whole.split("\n"))
    return "\n".join("\n".join(found) for found in lines).replace("\0", " ")


def _wrapped(text: str, room: int) -> str:
    words = " ".join(shortened(word, room) for word in text.split(" "))
    return textwrap.fill(words, room, break_long_words=False, break_on_hyphens=False)


def _rooms(needs: Sequence[_Need], width: int | None) -> list[int]:
    """Characters of each column: what it needs, less where they do not fit; those of sentences give way first."""
    rooms = [need.full for need in needs]
    for least in ([need.full if need.name else need.least for need in needs], [need.least for need in needs]):
        while width is not None and _line(rooms) > width:
            spare = [room - small for room, small in zip(rooms, least)]
            if max(spare, default=0) <= 0:
                break
            rooms[max(range(len(rooms)), key=lambda i: (spare[i] > 0, rooms[i]))] -= 1
    return rooms


class _Need(NamedTuple):
    """Characters that a column takes: full, and least where it must be narrow; whether its cells are names."""

    full: int
    least: int
    name: bool


def _needs(frame: pd.DataFrame) -> list[_Need]:
    found = []
    for column, values in zip(frame.columns, zip(*[[""] * len(frame.columns), *cells(frame)])):
        words = header(column).split()
        splits = (max(len(" ".join(words[:i])), len(" ".join(words[i:]))) for i in range(len(words)))
        heading = min(splits, default=0)  # in two lines
        most = max(map(len, values))
        name = all(value.count(" ") < 2 for value in values)
        least = most if _is_number(frame[column]) else min(most, LEAST_NAME if name else LEAST_SENTENCE)
        found.append(_Need(max(heading, most), max(heading, least), name))
    return found


def draw(renderable: Any, width: int, *, color: bool) -> str:
    """A rich renderable as text without trailing blanks."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        legacy_windows=False,
    )
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def natural_width(frame: pd.DataFrame) -> int:
    """Characters a line on paper needs, where nothing is shortened or wrapped."""
    return sum(need.full + PAPER_GAP for need in _needs(frame))


def wrapped_width(frame: pd.DataFrame, *, whole_names: bool) -> int:
    """Characters a line of `text_table` takes where sentences are wrapped, and names are shortened or not."""
    return _line([need.full if need.name and whole_names else need.least for need in _needs(frame)])


def _line(rooms: Sequence[int]) -> int:
    return sum(rooms) + GAP * (len(rooms) - 1)


def fit(
    frame: pd.DataFrame, width: int | None, droppable: Sequence[str], key: Sequence[str], *, shortened: bool = False
) -> list[pd.DataFrame]:
    """The frame as one or more frames that fit the width.

    First the `droppable` columns go, in that order; then the remaining columns are laid out over several tables, each
    of which begins with the `key` columns. shortened: as `text_table` can, with sentences wrapped, and with shortened
    names rather than over several tables.
    """
    wanted = partial(wrapped_width, whole_names=True) if shortened else natural_width
    for column in droppable:
        if width is None or wanted(frame) <= width:
            break
        frame = frame.drop(columns=[column], errors="ignore")
    taken = partial(wrapped_width, whole_names=False) if shortened else natural_width
    if width is None or taken(frame) <= width:
        return [frame]
    head = [c for c in key if c in frame.columns]
    pages: list[list[str]] = [[]]
    for column in (c for c in frame.columns if c not in head):
        if pages[-1] and taken(frame[[*head, *pages[-1], column]]) > width:
            pages.append([])
        pages[-1].append(str(column))
    return [frame[[*head, *page]] for page in pages]


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)

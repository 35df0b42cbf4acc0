"""What reaches the terminal: no control character of a name, a value or an error text that a file has brought along.

A sweep folder may come from somebody else. What it says is printed at many places, so all of a verb's output goes
through one filter. What draws on purpose, as the live table, takes the stream below it and cleans its words itself.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls but tab and line feed, what turns the direction of writing, and halves of characters of odd file names."""


def plain(text: str) -> str:
    r"""The text without colours, every other control character written out: \x1b, \u202e."""
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), COLOUR.sub("", text))


class PlainStream:
    """A text stream that writes `plain` text."""

    def __init__(self, stream: TextIO) -> None:
        self.below = stream

    def write(self, text: str) -> int:
        self.below.write(plain(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Within it, everything printed is `plain`."""
    with contextlib.redirect_stdout(PlainStream(sys.stdout)), contextlib.redirect_stderr(PlainStream(sys.stderr)):
        yield


def columns() -> int | None:
    """Characters per line of the terminal that is written to; None where it is none, and lines may be any length."""
    return screen()[0]


def screen() -> tuple[int | None, bool]:
    """(`columns`, whether colours are shown)."""
    console = Console()
    return (console.width, not console.no_color) if console.is_terminal else (None, False)


def drawing(stream: TextIO) -> TextIO:
    """The stream for one's own escape sequences."""
    return stream.below if isinstance(stream, PlainStream) else stream

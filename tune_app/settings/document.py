"""What a verb prints with format=json: one JSON document on stdout, everything else on stderr. See docs/json.md.

The schema of every document is in documents.schema.json, under the name that the document itself gives.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

FORMATS = ("table", "json")
VERSION = 1
"""Raised when a field of a document goes or changes its meaning; new fields may come without."""


@dataclass(frozen=True)
class Ended:
    """How a verb has ended. document: makes what format=json prints, and is not called without."""

    document: Callable[[], Mapping[str, Any]]
    code: int = 0


def told(verb: str, form: str, act: Callable[[], int | Ended | None]) -> int:
    """Act, and print the document where format=json asks for it; the exit code.

    A verb that raises prints no document: its one sentence is on stderr, and stdout stays empty.
    """
    if form != "json":
        ended = act()
        return ended.code if isinstance(ended, Ended) else ended or 0
    with contextlib.redirect_stdout(sys.stderr):
        ended = act()
        assert isinstance(ended, Ended), f"{verb} has no document"
        text = as_json(verb, ended.document())
    print(text)
    return ended.code


def as_json(verb: str, content: Mapping[str, Any]) -> str:
    """The document of a verb as text: ASCII, numbers exact, null where there is none."""
    schema = f"tune_app.{verb}/{VERSION}"
    return json.dumps({"schema": schema, **to_plain(content)}, indent=2, allow_nan=False)


def to_plain(value: Any) -> Any:
    """A value that strict JSON can hold: NaN and NA become null, NumPy numbers Python's, paths text."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)

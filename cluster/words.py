"""key=value words on the command line, to a dataclass."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

from cluster.errors import ClusterInputError

T = TypeVar("T")


def read_words(schema: type[T], words: Sequence[str], command: str) -> T:
    """Settings of `command` from words like hours=24. Raises ClusterInputError for an unknown key or a wrong value."""
    hints = get_type_hints(schema)
    known = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ClusterInputError(f"{word}: a setting is written key=value. Choices: {', '.join(known)}")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise ClusterInputError(f"{key}: {command} has no such setting. {hint}Choices: {', '.join(known)}")
        values[key] = _typed(word, hints[key], text)
    return schema(**values)


def _typed(word: str, wanted: Any, text: str) -> Any:
    if wanted is bool:
        if text not in ("true", "false"):
            raise ClusterInputError(f"{word}: true or false is needed")
        return text == "true"
    number = next((kind for kind in (int, float) if wanted in (kind, kind | None)), None)
    if number is None:
        return text
    try:
        return number(text)
    except ValueError:
        raise ClusterInputError(f"{word}: a {'whole ' if number is int else ''}number is needed") from None


def node_range(text: str) -> tuple[int, int]:
    """nodes=2..8 as (2, 8), nodes=3 as (3, 3). Raises ClusterInputError for anything else."""
    low, dots, high = text.partition("..")
    if not (low.isdigit() and (high.isdigit() if dots else True)) or int(high or low) < max(1, int(low)):
        raise ClusterInputError(f"nodes={text}: MIN..MAX with 0 ≤ MIN ≤ MAX and MAX ≥ 1 is needed, as nodes=0..4")
    return int(low), int(high or low)

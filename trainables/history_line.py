"""One epoch's row as a line of history.jsonl: strict JSON, with a checksum that tells changed bytes from a figure."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

CHECKSUM = "crc32"
"""The last key of a line: CRC-32 of the same line without it, eight hex digits."""
_SEAL = f', "{CHECKSUM}": "'


def json_line(row: Mapping[str, Any]) -> str:
    """A line with its checksum. NaN and infinities, which JSON does not know, become null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return _sealed(json.dumps(plain, allow_nan=False)) + "\n"


def is_intact(line: str) -> bool | None:
    """Whether a line, its newline cut off, is as it was written; None where it has no checksum."""
    content, found, _ = line.rpartition(_SEAL)
    return line == _sealed(content + "}") if found else None


def _sealed(text: str) -> str:
    return f'{text[:-1]}{_SEAL}{zlib.crc32(text.encode(errors="replace")):08x}"}}'

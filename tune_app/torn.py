"""Files that grow by whole lines, after a crash."""

from __future__ import annotations

from pathlib import Path


def drop_torn_line(path: Path) -> None:
    """Cut off a last line without its newline, left by a killed driver; what is appended next stays readable."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)

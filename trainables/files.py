"""Files that are there in full or not at all, and files that grow by whole lines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: Path, mode: str = "wb", *, durable: bool = False) -> Iterator[IO[Any]]:
    """A file beside `path` that takes its place when the block ends, and is removed where it raises.

    mode: of `open`; text is UTF-8, its line ends are kept. durable: on the disk before it takes the place.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with partial.open(mode, **text) as file:  # type: ignore[call-overload]
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is either there in full or not at all."""
    with replacing(path, "w") as file:
        file.write(text)


def drop_torn_line(path: Path) -> None:
    """Cut off a last line without its newline, left by a killed process; what is appended next stays readable."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)

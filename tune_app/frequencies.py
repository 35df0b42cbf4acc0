"""Exact class counts over the training crops:  python -m tune_app.frequencies data=cellmap data.root=PATH"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data import open_packed
from trainables.settings import DataSettings
from tune_app.command_line import run_verb
from tune_app.errors import InputError
from tune_app.manifest import write_text


@dataclass(kw_only=True)
class FrequenciesSettings:
    """What `python -m tune_app.frequencies` takes."""

    out: str = "class_frequencies.json"
    """File to write; frequencies=FILE of a run reads it."""
    side: str = "train"
    """train, or validate to look at the other side."""
    data: DataSettings = field(default_factory=DataSettings)


def frequencies(settings: FrequenciesSettings) -> int:
    """Count, print and write."""
    if settings.side not in ("train", "validate"):
        raise InputError(f"side={settings.side}: choose train or validate")
    counts = open_packed(settings.data).counts(settings.side)
    out = Path(settings.out).expanduser()
    try:
        write_text(out, json.dumps(counts, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"out={out}: cannot write there ({error.strerror}). Give another file: out=PATH") from None
    print(f"{'class':<14}{'positive voxels':>18}{'known voxels':>18}{'frequency':>12}")
    for name, positive, known in zip(counts["classes"], counts["positive"], counts["known"]):
        share = f"{100 * positive / known:.2f} %" if known else "—"
        print(f"{name:<14}{int(positive):>18,}{int(known):>18,}{share:>12}")
    print(f"written to {out}")
    return 0


def main() -> None:
    run_verb("frequencies", FrequenciesSettings, frequencies)


if __name__ == "__main__":
    main()

"""Generate data, or check a data set:  python -m tune_app.data action=check data=cellmap data.root=PATH"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.check import check
from trainables.data.sources import open_source
from trainables.settings import PATH, DataSettings, require_choice
from tune_app.errors import InputError, written
from tune_app.results.tables import counted
from tune_app.settings.command_line import run_verb

ACTIONS = ("make", "check")


@dataclass(kw_only=True)
class DataVerbSettings:
    """What `python -m tune_app.data` takes."""

    action: str = "check"
    """make: generate the phantom, fires (data=wildfire) or sheets (data=surface) into out=. check: verify a data set
    and its split, and say what is wrong."""
    out: str = field(default="", metadata=PATH)
    """Folder to make; it must not exist or be empty."""
    seed: int = 0
    """Seed of what is generated."""
    data: DataSettings = field(default_factory=DataSettings)

    def __post_init__(self) -> None:
        require_choice("action", self.action, ACTIONS)


def act(settings: DataVerbSettings) -> int:
    """Make or check; the exit code."""
    return generate(settings) if settings.action == "make" else check_data(settings.data)


def generate(settings: DataVerbSettings) -> int:
    """Generate data and say how to use them."""
    if not settings.out:
        raise InputError("out=: a folder is needed to generate into, for example action=make out=phantom")
    source = open_source(settings.data)
    with written(f"out={settings.out}", "Give another folder, on a disk with 60 MB free"):
        root = source.generate(Path(settings.out).expanduser(), settings.seed)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 1e6
    print(f"phantom written to {root} ({size:.0f} MB)")
    words = f"{source.choice} data.root={shlex.quote(str(root))}".strip()
    print(f"use it     python -m tune_app.run {words}")
    print(f"check it   python -m tune_app.data action=check {words}")
    return 0


def check_data(settings: DataSettings) -> int:
    """Print what is wrong with a data set; 2 where a run would stop."""
    findings = check(settings)
    for finding in findings:
        print(finding)
    errors, warnings = (sum(finding.level == level for finding in findings) for level in ("error", "warning"))
    print(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
    return 2 if errors else 0


def main() -> None:
    run_verb("data", DataVerbSettings, act)


if __name__ == "__main__":
    main()

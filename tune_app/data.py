"""Generate data, or check a data set:  python -m tune_app.data action=check data=cellmap data.root=PATH"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainables.data.check import check
from trainables.data.sources import open_source
from trainables.settings import PATH, DataSettings, require_choice
from tune_app.errors import InputError, written
from tune_app.results.tables import counted
from tune_app.settings.command_line import run_verb
from tune_app.settings.document import FORMATS, Ended

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
    format: str = "table"
    """table or json (docs/json.md)."""
    data: DataSettings = field(default_factory=DataSettings)

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)
        require_choice("action", self.action, ACTIONS)


def act(settings: DataVerbSettings) -> Ended:
    """Make or check."""
    return generate(settings) if settings.action == "make" else check_data(settings.data)


def generate(settings: DataVerbSettings) -> Ended:
    """Generate data and say how to use them."""
    if not settings.out:
        raise InputError("out=: a folder is needed to generate into, for example action=make out=phantom")
    source = open_source(settings.data)
    with written(f"out={settings.out}", "Give another folder, on a disk with 60 MB free"):
        root = source.generate(Path(settings.out).expanduser(), settings.seed)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(f"phantom written to {root} ({size / 1e6:.0f} MB)")
    words = f"{source.choice} data.root={shlex.quote(str(root))}".strip()
    steps = [f"python -m tune_app.run {words}", f"python -m tune_app.data action=check {words}"]
    print(f"use it     {steps[0]}")
    print(f"check it   {steps[1]}")
    return Ended(lambda: {"action": "make", "folder": root, "bytes": size, "next": steps})


def check_data(settings: DataSettings) -> Ended:
    """Print what is wrong with a data set; 2 where a run would stop."""
    findings = check(settings)
    for finding in findings:
        print(finding)
    errors, warnings = (sum(finding.level == level for finding in findings) for level in ("error", "warning"))
    print(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
    content = {"action": "check", "errors": errors, "warnings": warnings, "findings": list(map(asdict, findings))}
    return Ended(lambda: content, code=2 if errors else 0)


def main() -> None:
    run_verb("data", DataVerbSettings, act)


if __name__ == "__main__":
    main()

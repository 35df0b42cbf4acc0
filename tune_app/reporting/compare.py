"""python -m tune_app.compare a=… b=…: two sweeps, or two trials or exports, side by side. See docs/compare.md."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from trainables.settings import PATH, require, require_choice
from tune_app.errors import InputError
from tune_app.reporting.compare_runs import compare_runs
from tune_app.reporting.compare_sweeps import Compared, compare_sweeps
from tune_app.reporting.page import refuse_to_replace, save
from tune_app.results.folders import find_sweep
from tune_app.results.run import Run, find_run
from tune_app.results.sweep import Sweep
from tune_app.settings.document import FORMATS, Ended
from tune_app.settings.terminal import columns, drawing


@dataclass(kw_only=True)
class CompareSettings:
    """What `python -m tune_app.compare` takes."""

    a: str = field(default="", metadata=PATH)
    """A sweep: latest, its name in results_dir, or its folder. A trial: SWEEP/TRIAL, with its name or number, or its
    folder. An export: its folder."""
    b: str = field(default="", metadata=PATH)
    """The other one, likewise; differences are b − a."""
    results_dir: str = field(default="", metadata=PATH)
    """Folder of the sweeps; empty: $TUNE_APP_RESULTS, the user's setting, or results."""
    format: str = "table"
    """table or json."""
    out: str = field(default="", metadata=PATH)
    """HTML file to write besides; empty: none. An earlier page there is replaced; anything else is left alone."""

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)
        html = not self.out or Path(self.out).suffix.lower() in (".html", ".htm")
        require(html, "out", self.out, "the page is an HTML file", "Use out=comparison.html")


def compare(settings: CompareSettings) -> Compared:
    """Read both and put together what there is to say. Raises InputError."""
    given = {key: getattr(settings, key) for key in ("a", "b")}
    found: dict[str, Run | Sweep] = {
        key: find_run(word, settings.results_dir, key=key) or Sweep(find_sweep(word, settings.results_dir, key=key))
        for key, word in given.items()
    }
    a, b = found["a"], found["b"]
    same = a.folder == b.folder
    if isinstance(a, Run) and isinstance(b, Run):
        same |= a.trial.folder == b.trial.folder and a.trial.best.get("epoch") == b.trial.best.get("epoch")
    kind = "sweep" if isinstance(b, Sweep) else "trial"
    require(not same, "b", given["b"], f"it is the same {kind} as a={given['a']}", "Give another one")
    if isinstance(a, Sweep) and isinstance(b, Sweep):
        return compare_sweeps(a, b)
    for key, one in found.items():
        if isinstance(one, Sweep):
            first = one.trials[0].name if one.trials else "TRIAL"
            raise InputError(
                f"{key}={given[key]}: is a sweep, and the other one is a single run; two of a kind are compared. "
                f"Name one of its trials, for example {key}={given[key]}/{first}"
            )
    assert isinstance(a, Run)
    assert isinstance(b, Run)
    return compare_runs(a, b)


def compare_and_print(settings: CompareSettings) -> Ended:
    """Compare, write the page where one is asked for, and print."""
    path = Path(settings.out).expanduser() if settings.out else None
    if path is not None:
        refuse_to_replace(path)
    found = compare(settings)
    if path is not None:
        save(found.page(), path)
    if settings.format != "json":
        print(found.text(columns()), file=drawing(sys.stdout))
    if path is not None:
        print(f"\n{path}   open it in any browser")
    return Ended(lambda: {**found.document(), "page": path})

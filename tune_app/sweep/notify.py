"""notify.command: a program of the person's own, told how a sweep or a confirmation ended, or that it waits.

It is given on the command line and lies in no sweep folder, which may come from somebody else: to resume a sweep never
runs what a file says.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainables.settings import require
from tune_app.results.finding import read_confirmation
from tune_app.results.folders import is_confirmation
from tune_app.results.sweep import Sweep
from tune_app.settings.schema import NOTIFY_WORDS, NotifySettings

EVENTS = {0: "finished", 130: "interrupted"}
"""By exit code; of any other one failed."""
SAID = {"waiting": "is waiting", "interrupted": "was interrupted"}
PATIENCE_S = 60.0
"""The program is ended after so long: the driver waits for it."""


@dataclass(frozen=True)
class Notify:
    """The words of notify.command; none where nobody is to be told."""

    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: NotifySettings) -> Notify:
        """Raises SettingsError where there is no such program on this machine."""
        words = tuple(shlex.split(settings.command))
        require(
            not words or shutil.which(words[0]) is not None,
            "notify.command",
            settings.command,
            f"{words[0] if words else ''} is no program on this machine's PATH, nor the path of one",
            "Correct it, or give its whole path",
        )
        return cls(words)

    def end_of(self, folder: Path, work: Callable[[], int]) -> int:
        """The exit code of `work`, told whatever it was; an exception is told, too, and goes on."""
        try:
            code = work()
        except Exception as error:
            if (folder / "sweep.yaml").is_file():  # else it had not begun, and somebody is at the terminal
                self.tell(folder, "failed", f"{error}".partition("\n")[0])
            raise
        self.tell(folder, EVENTS.get(code, "failed"))
        return code

    def tell(self, folder: Path, event: str, why: str = "") -> None:
        """Run the program. Whatever goes wrong with it, or with what is told, is one line on stderr."""
        if not self.words:
            return
        try:
            done = subprocess.run(
                filled(self.words, values_of(folder, event, why)),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
            said = done.stderr.decode(errors="replace").strip().splitlines()
            problem = f"ended with exit code {done.returncode}{f': {said[-1]}' if said else ''}" * bool(done.returncode)
        except subprocess.TimeoutExpired:
            problem = f"was ended after {PATIENCE_S:.0f} s"
        except Exception as error:  # never the sweep's
            problem = f"could not be run ({error})"
        if problem:
            print(f"warning: notify.command: {self.words[0]} {problem}; {event} was not told", file=sys.stderr)


def values_of(folder: Path, event: str, why: str) -> dict[str, str]:
    """What stands for the words in braces."""
    sweep, confirms = Sweep(folder), is_confirmation(folder)
    name = folder.parent.name if confirms else folder.name
    if confirms:
        found = read_confirmation(folder)
        best = str(found.get("winner") or found.get("default_choice") or "")
    else:
        ranked = sweep.leaderboard().dropna(subset=["rank"])
        best = f"{ranked['name'].iloc[0]} {ranked[sweep.metric].iloc[0]:.4f}" if len(ranked) else ""
    what = f"{'confirmation of ' * confirms}{name} {SAID.get(event, event)}"
    message = f"{what}{f': {why}' if why else f', best {best}' if best else ''}"
    values = {"sweep": name, "event": event, "best": best, "message": message, "folder": str(folder)}
    assert values.keys() == set(NOTIFY_WORDS)
    return values


def filled(words: tuple[str, ...], values: Mapping[str, str]) -> list[str]:
    """The words as arguments, each still one. What a value brings is text: no shell reads it, and its braces stay."""
    return [re.sub(rf"\{{({'|'.join(values)})\}}", lambda found: values[found[1]], word) for word in words]

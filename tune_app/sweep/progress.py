"""What a person sees while a sweep runs: a compact live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import pandas as pd
from ray.tune import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainables.objective import Key, Objective, number
from trainables.trial_folder import first_epoch_share
from tune_app.results.tables import LEAST_NAME, counted, fit, shortened, text_table
from tune_app.search.early_failure import Watch
from tune_app.settings.terminal import drawing, plain
from tune_app.sweep.interrupt import announce_interrupts

HEARTBEAT_S, LOOK_EVERY_S = 30.0, 0.5
MAX_ROWS, BAR, INDENT = 8, 40, " " * 5
INTERRUPTED = (
    "interrupted: the running trials stop now, and go on from their last epoch when the sweep is resumed. "
    "Ctrl-C again ends at once"
)


@dataclass
class TrialView:
    """What is shown of one trial: `score`, the figure that ranks, and `classes`, their Dice, of its last epoch; `best`
    and `best_classes` of its best."""

    name: str
    folder: str = ""
    epoch: int = 0
    trained: int = 0
    """Epochs since it was resumed here."""
    share: float = 0.0
    """How much of the first of them has passed, while it lasts."""
    score: float = math.nan
    classes: dict[str, float] = field(default_factory=dict)
    best: float = math.nan
    best_key: Key = (False, -math.inf, -math.inf)
    best_classes: dict[str, float] = field(default_factory=dict)
    state: str = "running"
    began: float = 0.0
    seen: float = 0.0
    """When epoch or share was learnt."""


@dataclass
class Progress:
    """The state of the sweep as the driver sees it, and its summary in words."""

    num_trials: int
    epochs: int
    classes: Sequence[str]
    objective: Objective
    slots: int
    planned: float = math.nan
    """Epochs that a trial is expected to have, early stopping included; NaN: all of them."""
    running: dict[str, TrialView] = field(default_factory=dict)
    """By name. Of the trials that have ended only sums are kept: every step asks for them."""
    paused: dict[str, TrialView] = field(default_factory=dict)
    """Trials that wait at a rung, and may go on from there."""
    ended: Counter[str] = field(default_factory=Counter)
    """How many ended in which state."""
    earlier: int = 0
    waits: str = ""
    """What no trial runs for, where that is so."""
    began: float = field(default_factory=time.monotonic)
    _seconds: float = 0.0
    _trained: int = 0
    """Of the trials that have ended here: how long they ran, and epochs trained meanwhile."""
    _reached: int = 0
    """The sum of their last epochs."""
    best: TrialView | None = None

    def start(self, name: str, folder: str = "") -> TrialView:
        now = time.monotonic()
        if (paused := self.paused.pop(name, None)) is not None:
            paused.state, paused.began, paused.seen, paused.trained = "running", now, now, 0
            self.running[name] = paused
        return self.running.setdefault(name, TrialView(name, folder, began=now, seen=now))

    def pause(self, name: str) -> TrialView:
        """The trial gives its slot back at a rung."""
        view = self.running.pop(name, None) or TrialView(name)
        self.paused[name], view.state = view, "paused"
        self._count_time(view)
        return view

    def update(self, name: str, row: Mapping[str, Any]) -> TrialView:
        """Take in one epoch's row."""
        view = self.start(name)
        view.epoch, view.trained, view.share, view.seen = row["epoch"], view.trained + 1, 0.0, time.monotonic()
        view.score = number(row, self.objective.metric)
        view.classes = {c: row.get(f"dice/{c}", math.nan) for c in self.classes}
        key = self.objective.key(row)
        if math.isfinite(view.score) and key > view.best_key:
            view.best, view.best_key, view.best_classes = view.score, key, view.classes
        if math.isfinite(view.best) and (self.best is None or view.best_key > self.best.best_key):
            self.best = view
        return view

    def look_at_first_epochs(self) -> None:
        """Until the first row of a trial, its folder tells how far it is."""
        for view in self.running.values():
            if not view.trained and view.folder and (share := first_epoch_share(view.folder)) > view.share:
                view.share, view.seen = share, time.monotonic()

    def end(self, name: str, state: str) -> TrialView:
        paused = self.paused.pop(name, None)
        view = self.running.pop(name, None) or paused or TrialView(name)
        view.state = state
        self.ended[state] += 1
        self._reached += view.epoch
        if paused is None:
            self._count_time(view)
        return view

    def _count_time(self, view: TrialView) -> None:
        """Of a trial that runs no more."""
        if view.trained:
            self._seconds += time.monotonic() - view.began
            self._trained += view.trained

    def seconds_left(self) -> float:
        """At the pace so far, with all slots in use; NaN before the first steps."""
        pace = self._seconds_per_epoch()
        waiting, running = self._epochs_left(pace)
        return pace * max([(waiting + sum(running)) / self.slots, *running])

    def share_done(self) -> float:
        """Epochs trained ÷ epochs expected, in [0, 1]."""
        pace = self._seconds_per_epoch()
        done = self.earlier * self._epochs_expected() + self._reached
        done += sum(self._epochs_of(view, pace) for view in self.running.values())
        done += sum(view.epoch for view in self.paused.values())
        waiting, running = self._epochs_left(pace)
        left = waiting + sum(running)
        return done / (done + left) if left else 1.0

    def _seconds_per_epoch(self) -> float:
        known = [view for view in self.running.values() if view.trained or view.share]
        epochs = self._trained + sum(view.trained + view.share for view in known)
        return (self._seconds + sum(view.seen - view.began for view in known)) / epochs if epochs else math.nan

    def _epochs_left(self, pace: float) -> tuple[float, list[float]]:
        """Of all trials that have not begun, and of each that runs; of those that are paused few will go on.

        One that has outlived what is expected is taken to run to its last epoch.
        """
        expected = self._epochs_expected()
        begun = self.earlier + self.ended.total() + len(self.running) + len(self.paused)
        waiting = max(0, self.num_trials - begun) * expected
        epochs = [self._epochs_of(view, pace) for view in self.running.values()]
        return waiting, [expected - n if n < expected else max(0.0, self.epochs - n) for n in epochs]

    def _epochs_expected(self) -> float:
        """Epochs of a trial: the mean of those that have ended here and of one per slot as it was planned."""
        planned = self.planned if math.isfinite(self.planned) else self.epochs
        return (planned * self.slots + self._reached) / (self.slots + self.ended.total())

    def _epochs_of(self, view: TrialView, pace: float) -> float:
        """Epochs that a running trial has behind it; between two rows as the clock has it."""
        since = (time.monotonic() - view.seen) / pace if pace > 0 else 0.0
        return view.epoch + min(1.0, view.share + since)

    def headline(self) -> str:
        """One line: counts, best, time left. How trials ended is told of those that ended under this driver."""
        before = f", {self.earlier} of them before" if self.earlier else ""
        parts = [
            f"{self.earlier + self.ended.total()}/{counted(self.num_trials, 'trial')} done{before}",
            f"{len(self.running)} running",
        ]
        parts += [f"{len(self.paused)} paused"] if self.paused else []
        parts += [f"{number} {state}" for state, number in sorted(self.ended.items()) if state != "finished"]
        parts += [self.waits] if self.waits else []
        left = self.seconds_left()
        parts.append(
            f"about {clock(left)} left" if math.isfinite(left) else f"{clock(time.monotonic() - self.began)} gone"
        )
        return " · ".join(parts)

    def best_line(self, width: int | None = None) -> str:
        best = self.best
        if best is None:
            return "best —"
        nearest = f"nothing keeps {self.objective.bounds} yet; nearest " if best.best_key[1] < 0 else "best "
        return trial_line(f"{nearest}{best.best:.4f}  ", best.name, "", best.best_classes, width)

    def row(self, view: TrialView) -> dict[str, Any]:
        """A trial in the live table."""
        scores = {
            self.objective.metric: view.score,
            **{f"dice/{c}": view.classes.get(c, math.nan) for c in self.classes},
        }
        return {"trial": view.name, "epoch": f"{view.epoch}/{self.epochs}", **scores}


def trial_line(before: str, name: str, after: str, classes: Mapping[str, float], width: int | None) -> str:
    """A trial and the Dice of each class in one line; where it is longer than `width`, the classes follow below.

    The name is shortened then, and no class is parted from its Dice.
    """
    line = f"{before}{name}{after}  ({'  '.join(f'{c} {short(value)}' for c, value in classes.items())})"
    if width is None or len(line) <= width:
        return line
    pairs = "  ".join(f"{c}\0{short(value)}" for c, value in classes.items())
    below = textwrap.wrap(pairs, width, initial_indent=INDENT, subsequent_indent=INDENT, break_long_words=False)
    name = shortened(name, max(LEAST_NAME, width - len(before) - len(after)))
    return "\n".join([f"{before}{name}{after}", *below]).replace("\0", " ")


def short(value: float) -> str:
    return f"{value:.3f}".lstrip("0") if math.isfinite(value) else "—"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Display(Callback):
    """Tune callback that keeps `progress` and draws it; the watch, where there is one, says why trials were stopped."""

    def __init__(self, progress: Progress, stream: TextIO | None = None, watch: Watch | None = None) -> None:
        self.progress, self.watch = progress, watch
        self._given = stream
        self._live: Live | None = None
        self._last_line = time.monotonic()
        self._last_look = 0.0

    @property
    def _stream(self) -> TextIO:
        """Found when it is needed: Ray pickles a callback with what it holds, and a terminal cannot be pickled."""
        return drawing(self._given or sys.stdout)

    def setup(self, **info: Any) -> None:
        """Ray has set its signal handlers by now, and begins."""
        announce_interrupts(lambda: self._print(INTERRUPTED))
        console = Console(file=self._stream)
        if console.is_terminal:
            self._live = Live(self._screen(console.width), console=console, auto_refresh=False, transient=True)
            self._live.start(refresh=True)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.progress.start(trial.config["run"]["name"], trial.config["run"]["dir"])

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self.progress.update(trial.config["run"]["name"], result)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        verdict = self.watch.verdicts.get(trial.config["run"]["name"], "") if self.watch else ""
        row = trial.last_result or {}
        if trial.config["run"]["name"] in self.progress.paused:
            self.progress.end(trial.config["run"]["name"], "paused")  # it said so when it paused
            return
        state = "finished" if row.get("epoch", 0) >= self.progress.epochs else "stopped early"
        if row.get("stopped"):
            state = f"finished, {row['stopped']},"
        if row.get("diagnosis"):
            state = f"failed: {row['diagnosis']}"
        self._end(trial, f"failed: {verdict}" if verdict and state == "stopped early" else state)

    def on_trial_save(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """It pauses: nothing else is saved by Ray."""
        self._tell(self.progress.pause(trial.config["run"]["name"]))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._end(trial, "failed: error")
        self._print(f"      why: {trial.config['run']['dir']}/error.txt")

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        if time.monotonic() - self._last_look > LOOK_EVERY_S:
            self._last_look = time.monotonic()
            self.progress.look_at_first_epochs()
            if self._live is not None:
                self._live.update(self._screen(self._live.console.width), refresh=True)
        if self._live is None and time.monotonic() - self._last_line > HEARTBEAT_S:
            self._print(f"  … {self.progress.headline()}")

    def close(self) -> None:
        """Take the live table off the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _end(self, trial: Any, state: str) -> None:
        self._tell(self.progress.end(trial.config["run"]["name"], state))

    def _tell(self, view: TrialView) -> None:
        """Say that a trial has ended, or pauses."""
        width = self._live.console.width if self._live else None
        after = f"  {view.state} at epoch {view.epoch}"
        line = f"  {view.name}{after}"
        if math.isfinite(view.best):
            line = trial_line("  ", view.name, f"{after}  best {short(view.best)}", view.best_classes, width)
        self._print(line if self._live else f"{line}  [{self.progress.headline()}]")

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        if self._live is not None:
            self._live.console.print(Text(plain(line)))
        else:
            print(plain(line), file=self._stream, flush=True)

    def _screen(self, width: int) -> Group:
        """Counts, bar, best and the running trials, at most `width` characters wide."""
        progress = self.progress
        done, bar = progress.share_done(), Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=1.0, completed=done, width=min(BAR, width - 6)), f"{done:.0%}")
        parts: list[Table | Text] = [
            Text(progress.headline(), style="bold"),
            bar,
            Text(plain(progress.best_line(width))),
        ]
        running = list(progress.running.values())
        if running:
            frame = pd.DataFrame([progress.row(view) for view in running[:MAX_ROWS]])
            shown = fit(frame, width, [f"dice/{c}" for c in reversed(progress.classes)], (), shortened=True)[0]
            parts.append(Text.from_ansi(text_table(shown, width, color=True)))
            if hidden := len(frame.columns) - len(shown.columns):
                parts.append(Text(f"… and {counted(hidden, 'class', 'classes')} more, in a wider terminal"))
        if len(running) > MAX_ROWS:
            parts.append(Text(f"… and {len(running) - MAX_ROWS} more running"))
        return Group(*parts)

"""Plain lines where the output is no terminal, a live table where it is."""

from __future__ import annotations

import io
import math
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from planned import ray_trial
from ray import cloudpickle
from rich.console import Console

from trainables.objective import Objective
from tune_app.settings.terminal import plain_output
from tune_app.sweep import progress as display_module
from tune_app.sweep.interrupt import interrupts
from tune_app.sweep.progress import INTERRUPTED, Display, Progress, clock, short

CLASSES = ("nuc", "golgi_mem")

DICE = Objective(metric="mean_dice")


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """As they were, after each test."""
    with interrupts():
        yield


def progress_of(**more: object) -> Progress:
    return Progress(**{"num_trials": 4, "epochs": 3, "classes": CLASSES, "objective": DICE, "slots": 2, **more})


def row(epoch: int, nuc: float, golgi: float, **more: object) -> dict:
    return {"epoch": epoch, "mean_dice": (nuc + golgi) / 2, "dice/nuc": nuc, "dice/golgi_mem": golgi, **more}


def test_ray_can_pickle_it_where_it_writes_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr("sys.stdout", log)
        with plain_output():
            cloudpickle.dumps(Display(progress_of()))


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    """What was written, without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def drive(display: Display, folder: Path) -> None:
    """Four trials: one finishes, one is stopped early, one fails on NaN, one by an error."""
    for name, rows in (
        ("0000_a", [row(1, 0.5, 0.1), row(2, 0.7, 0.3), row(3, 0.6, 0.2)]),
        ("0001_b", [row(1, 0.1, 0.1)]),
        ("0002_c", [row(1, math.nan, math.nan, diagnosis="nan")]),
    ):
        trial = ray_trial(folder, name, **rows[-1])
        display.on_trial_start(0, [], trial)
        for result in rows:
            display.on_trial_result(0, [], trial, result)
        display.on_trial_complete(0, [], trial)
    trial = ray_trial(folder, "0003_d")
    display.on_trial_start(0, [], trial)
    display.on_trial_error(0, [], trial)


def test_a_score_that_is_nan_takes_the_place_of_none():
    progress = progress_of()
    for name, result in (("a", row(1, 0.5, 0.1)), ("a", row(2, math.nan, math.nan)), ("b", row(1, 0.6, 0.2))):
        progress.update(name, result)
    assert progress.running["a"].best == 0.3
    assert progress.best_line() == "best 0.4000  b  (nuc .600  golgi_mem .200)"


def test_plain_lines(tmp_path):
    stream = io.StringIO()
    display = Display(progress_of(), stream)
    display.setup()
    drive(display, tmp_path)
    display.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5, "one line per ended trial, and where it says why one failed"
    assert lines[-1].endswith("0003_d/error.txt")
    assert (
        "0000_a  finished at epoch 3  best .500  (nuc .700  golgi_mem .300)  [1/4 trials done · 0 running" in lines[0]
    )
    assert "0001_b  stopped early at epoch 1  best .100" in lines[1]
    assert "0002_c  failed: nan at epoch 1" in lines[2]
    assert "best" not in lines[2]
    assert "0003_d  failed: error at epoch 0" in lines[3]
    assert "4/4 trials done · 0 running · 1 failed: error · 1 failed: nan · 1 stopped early" in lines[3]
    assert "\x1b" not in stream.getvalue()


def test_ctrl_c_says_what_it_does_before_anything_ends():
    stream = io.StringIO()
    signal.signal(signal.SIGINT, lambda number, frame: print("Ray ends", file=stream))
    display = Display(progress_of(), stream)
    display.setup()
    os.kill(os.getpid(), signal.SIGINT)
    assert stream.getvalue() == f"{INTERRUPTED}\nRay ends\n"


def test_a_sign_of_life_between_trials(tmp_path, monkeypatch):
    stream = io.StringIO()
    display = Display(progress_of(), stream)
    display.on_trial_start(0, [], ray_trial(tmp_path, "0000_a"))
    display.on_trial_start(0, [], ray_trial(tmp_path, "0001_b"))
    display.on_step_end(0, [])
    assert stream.getvalue() == ""
    monkeypatch.setattr(display_module, "HEARTBEAT_S", -1.0)
    display.on_step_end(0, [])
    assert "… 0/4 trials done · 2 running" in stream.getvalue()


def test_a_live_table_in_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Screen()
    display = Display(progress_of(), stream)
    display.setup()
    try:
        drive(display, tmp_path)
        display.on_trial_start(0, [], trial := ray_trial(tmp_path, "0004_e"))
        display.on_trial_result(0, [], trial, row(2, 0.4, 0.2))
        display.on_step_end(0, [])
    finally:
        display.close()
    text = shown(stream)
    assert "0000_a  finished at epoch 3  best .500" in text
    assert "best 0.5000  0000_a  (nuc .700  golgi_mem .300)" in text
    assert re.search(r"trial +epoch +Dice +nuc +golgi_mem", text)
    assert re.search(r"0004_e +2/3 +0\.3000 +0\.4000 +0\.2000", text)
    assert "\x1b[?25l" in stream.getvalue(), "the cursor is hidden while the table is live"
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l"), "and shown again"
    display.close()


def test_the_table_stays_compact():
    progress = progress_of(num_trials=40)
    for number in range(20):
        progress.update(f"{number:04d}_arm", row(1, 0.1, 0.2))
    console = Console(file=Screen(), force_terminal=True, width=80)
    console.print(Display(progress)._screen(80))
    text = shown(console.file)
    assert len(text.splitlines()) == 3 + 3 + display_module.MAX_ROWS + 1
    assert "… and 12 more running" in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("width", "wanted"),
    [
        (120, r"^0002_seesaw_p0\.3141592_q1\.2718281_share +1/3 +0\.1500 +0\.1000 +0\.3000 +0\.2000$"),
        (70, r"^0002_seesaw_p0\.3141592_q1\.2718281_share +1/3 +0\.1500 +0\.1000$"),
        (50, r"^0002_seesaw\S*…\S*_share +1/3 +0\.1500$"),
    ],
)
def test_a_narrow_terminal_loses_classes_before_names_lose_their_middle(width, wanted):
    progress = progress_of(classes=("nuc", "mito_mem", "golgi_mem"))
    progress.update("0002_seesaw_p0.3141592_q1.2718281_share", row(1, 0.1, 0.2, **{"dice/mito_mem": 0.3}))
    console = Console(file=io.StringIO(), width=width)
    console.print(Display(progress)._screen(width))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert any(re.search(wanted, line) for line in lines), lines
    assert "nuc .100  mito_mem .300  golgi_mem .200" in " ".join(lines[2:4])


def test_the_best_epoch_counts_and_its_classes_are_shown():
    progress = progress_of()
    progress.update("a", row(1, 0.5, 0.3))
    progress.update("a", row(2, 0.1, 0.1))
    progress.update("b", row(1, math.nan, math.nan))
    best = progress.best
    assert (best.name, best.best, best.best_classes) == ("a", 0.4, {"nuc": 0.5, "golgi_mem": 0.3})
    assert progress.best_line() == "best 0.4000  a  (nuc .500  golgi_mem .300)"
    assert progress_of().best_line() == "best —"


def test_mean_and_classes_of_a_row_are_of_one_epoch():
    progress = progress_of()
    progress.update("a", row(1, 0.5, 0.3))
    view = progress.update("a", row(2, 0.2, 0.1))
    assert (view.score, view.classes) == (pytest.approx(0.15), {"nuc": 0.2, "golgi_mem": 0.1})
    console = Console(file=Screen(), force_terminal=True, width=80)
    console.print(Display(progress)._screen(80))
    assert re.search(r"a +2/3 +0\.1500 +0\.2000 +0\.1000", shown(console.file))


def test_a_nan_before_a_number_does_not_hide_it():
    progress = progress_of()
    progress.update("a", row(1, math.nan, math.nan))
    progress.update("a", row(2, 0.2, 0.2))
    assert progress.best.best == 0.2


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    clock_of_test = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock_of_test[0])
    return clock_of_test


def test_time_left_is_that_of_the_trials_to_come(now):
    progress = progress_of(num_trials=6, epochs=2)
    assert math.isnan(progress.seconds_left())
    assert progress.share_done() == 0
    for name in "ab":
        progress.start(name)
        for epoch in (1, 2):
            now[0] += 5
            progress.update(name, row(epoch, 0.1, 0.1))
        progress.end(name, "finished")
    assert progress.seconds_left() == pytest.approx(4 * 10 / 2), "four trials of ten seconds in two slots"
    assert progress.share_done() == pytest.approx(2 / 6)
    progress.start("c")
    now[0] += 4
    assert progress.seconds_left() == pytest.approx((4 * 10 - 4) / 2), "between two rows the clock counts"
    assert progress.share_done() == pytest.approx((2 * 10 + 4) / 60)


def test_time_left_is_known_within_the_first_epoch(now, tmp_path):
    """Two of four trials of three epochs run; ten of twenty steps took five seconds."""
    stream = io.StringIO()
    display = Display(progress_of(began=now[0]), stream)
    folders = [tmp_path / "0000_a", tmp_path / "0001_b"]
    for folder in folders:
        folder.mkdir()
        display.on_trial_start(0, [], ray_trial(tmp_path, folder.name))
    now[0] += 5
    display.on_step_end(0, [])
    assert display.progress.headline().endswith("0:05 gone")
    for folder in folders:
        (folder / "step.json").write_text('{"step": 10, "steps": 20}')
    now[0] += 5
    display.on_step_end(0, [])
    assert display.progress.seconds_left() == pytest.approx((2 * 2.5 + 2 * 3) / 2 * 20)
    assert display.progress.share_done() == pytest.approx(1 / 12)
    now[0] += 60
    assert display.progress.share_done() == pytest.approx(2 / 12), "no more than the epoch until its row is there"


def test_early_stopping_counts_as_planned_and_then_as_seen(now):
    progress = progress_of(num_trials=11, epochs=9, slots=1, planned=5.0)
    progress.start("a")
    now[0] += 1
    progress.update("a", row(1, 0.1, 0.1))
    assert progress.seconds_left() == pytest.approx(4 + 10 * 5)
    progress.end("a", "stopped early")
    assert progress.seconds_left() == pytest.approx(10 * (5 + 1) / 2)


def test_the_pace_of_a_resumed_trial_is_that_of_what_it_trains_now(now):
    progress = progress_of(num_trials=1, epochs=9, slots=1)
    progress.start("a")
    now[0] += 10
    progress.update("a", row(7, 0.1, 0.1))
    assert progress.seconds_left() == pytest.approx(2 * 10)


def test_trials_of_an_earlier_run_count_as_done():
    progress = progress_of(num_trials=6, earlier=4)
    progress.update("a", row(1, 0.1, 0.1))
    progress.end("a", "finished")
    assert progress.headline().startswith("5/6 trials done, 4 of them before · 0 running")
    progress.end("b", "finished")
    assert progress.seconds_left() == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.7, "1:00:00"), (7322, "2:02:02")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_short():
    assert [short(value) for value in (0.0, 0.5, 1.0, 0.12345, math.nan)] == [".000", ".500", "1.000", ".123", "—"]


def test_a_trial_that_outlives_the_others_is_taken_to_run_to_its_last_epoch(now):
    progress = progress_of(num_trials=2, epochs=30, planned=1.0)
    for name in ("short", "long"):
        progress.start(name)
        progress.update(name, row(1, 0.1, 0.1))
    progress.end("short", "stopped early")
    now[0] += 40
    progress.update("long", row(10, 0.5, 0.5))
    assert progress.seconds_left() == pytest.approx(40 / 3 * (30 - 10))

"""notify.command: a real program is told, once, in arguments; and nothing that goes wrong with it touches the sweep."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from sweep_folder import WrittenTrial, write_sweep

from trainables.objective import Objective
from tune_app.settings.schema import NotifySettings
from tune_app.sweep import notify as notify_module
from tune_app.sweep.notify import Notify, filled
from tune_app.sweep.progress import Progress
from tune_app.sweep.standstill import LongWait

RECORD = "import sys; open('told.txt', 'a').write(repr(sys.argv[1:]) + chr(10))"
EVIL = "p0.8; touch evil $(touch evil) {event}"


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sweep(tmp_path / "a b", [WrittenTrial(label=EVIL, dice=[(0.8, 0.6)], signature="x")])


def told() -> list[list[str]]:
    return [eval(line) for line in Path("told.txt").read_text().splitlines()]


def telling(*words: str) -> Notify:
    return Notify((sys.executable, "-c", RECORD, *words))


def test_a_program_is_told_in_arguments_that_no_shell_reads(sweep: Path) -> None:
    command = f"{sys.executable} -c \"{RECORD}\" '{{sweep}} {{event}}' {{best}} {{folder}} {{message}} '{{\"a\": 1}}'"
    Notify.of(NotifySettings(command=command)).tell(sweep, "finished")
    best = f"0000_{EVIL} 0.7000"
    assert told() == [["a b finished", best, str(sweep), f"a b finished, best {best}", '{"a": 1}']]
    assert not Path("evil").exists()
    assert filled(("{sweep}{sweep}",), {"sweep": "{sweep}"}) == ["{sweep}{sweep}"], "what was filled in is text"


@pytest.mark.parametrize(("code", "event"), [(0, "finished"), (130, "interrupted"), (1, "failed")])
def test_every_end_is_told_once(sweep: Path, code: int, event: str) -> None:
    assert telling("{event}").end_of(sweep, lambda: code) == code
    assert told() == [[event]]


def test_an_error_is_told_and_goes_on(sweep: Path, tmp_path: Path) -> None:
    def fail() -> int:
        raise RuntimeError("the disk is full\nand more")

    with pytest.raises(RuntimeError, match="and more"):
        telling("{event}", "{message}").end_of(sweep, fail)
    assert told() == [["failed", "a b failed: the disk is full"]]
    with pytest.raises(RuntimeError, match="disk"):
        telling("{event}").end_of(tmp_path / "never begun", fail)
    assert len(told()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((sys.executable, "-c", "import sys; sys.exit('no net')"), "ended with exit code 1: no net"),
        ((sys.executable, "-c", "import time; time.sleep(99)"), "was ended after"),
        (("/gone/since",), "could not be run"),
    ],
)
def test_a_program_that_fails_is_one_warned_line(
    sweep: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notify_module, "PATIENCE_S", 0.5 if "was" in said else 60.0)
    assert Notify(words).end_of(sweep, lambda: 0) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith(f"warning: notify.command: {words[0]} {said}")


def test_a_damaged_sweep_is_no_reason_to_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    telling().tell(tmp_path / "nothing here", "finished")
    assert "finished was not told" in capsys.readouterr().err


def test_a_long_wait_is_told_once_until_a_trial_runs_again(sweep: Path) -> None:
    """With a patience of none. Ray pickles a callback."""
    progress = Progress(num_trials=2, epochs=3, classes=["nuc"], objective=Objective(metric="mean_dice"), slots=1)
    wait = pickle.loads(pickle.dumps(LongWait(telling("{event}", "{message}"), sweep, progress, patience_s=0.0)))
    wait._progress.waits = "waits for 1 GPU"
    pending, running = SimpleNamespace(status=Trial.PENDING), SimpleNamespace(status=Trial.RUNNING)
    for trials in ([running], [running, pending], [pending], [pending], [running], [pending]):
        wait.on_step_end(0, trials)
    assert told() == [["waiting", "a b is waiting: waits for 1 GPU"]] * 2
    never = LongWait(telling(), sweep, progress)
    never.on_step_end(0, [pending])
    assert len(told()) == 2

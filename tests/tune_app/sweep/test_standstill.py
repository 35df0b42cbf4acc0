"""Sweeps whose Ray is broken from outside, by killing its processes: they end and say why, and can be resumed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from sweeps import TINY, Place, Run, descendants, reported, rows

from cluster.state import WAITING, write_json
from trainables.objective import Objective
from tune_app.errors import RunFailed
from tune_app.results.sweep import Sweep
from tune_app.sweep import standstill
from tune_app.sweep.progress import Progress
from tune_app.sweep.standstill import WORKER_DIED, Standstill, Waiting

ENDLESS = (
    *TINY,
    "family=seesaw",
    "search.num_samples=2",
    "search.baseline=false",
    "scheduler.name=none",
    "trainer.epochs=999",
    "resources.max_concurrent=1",
    "cluster.standstill_s=3",
)


def process_of_ray(run: Run, name: str) -> int:
    programs = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] for pid in descendants(run.process.pid)}
    return next(pid for pid, program in programs.items() if program.endswith(name.encode()))


def until_none_has_in_its_command(path: Path) -> None:
    """Ray's processes, orphans of a driver, end a moment after it."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            while os.fsencode(path) in command.read_bytes():
                time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_search_whose_ray_is_killed_ends_and_says_how_to_go_on(place: Place) -> None:
    sweep = place.sweep("struck")
    for words, program, why in (
        ((*ENDLESS, "name=struck"), "gcs_server", "is gone: gcs_server was ended by SIGKILL"),
        (("resume=struck",), "raylet/raylet", "no node of Ray lives: raylet was ended by SIGKILL"),
    ):
        before = reported(sweep)
        run = place.start("run", *words)
        run.until(lambda before=before: reported(sweep) > before)
        os.kill(process_of_ray(run, program), signal.SIGKILL)
        assert run.wait() == 1
        error = run.output().partition("error: ")[2]
        assert why in error
        assert error.endswith("Nothing recorded is lost. Resume with: python -m tune_app.run resume=struck\n")
        assert "state-dump" not in run.output(), "none of Ray's own lines"
        assert Sweep(sweep).status == "crashed"
        until_none_has_in_its_command(place.temporary)
    left = [*place.temporary.glob("tune_app-*"), *place.temporary.glob("pymp-*")]
    assert left == [], "the second start has removed what the first one had to leave"
    (history,) = sweep.glob("trials/*/history.jsonl")
    epochs = [row["epoch"] for row in rows(history)]
    assert epochs == list(range(1, len(epochs) + 1))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_search_whose_workers_cannot_start_ends_with_what_ray_says(place: Place, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif any('default_worker' in word for word in sys.orig_argv): sys.exit('no worker today')\n"
    )
    usual = place.environment
    place.environment = usual | {
        "PYTHONPATH": f"{tmp_path}:{usual['PYTHONPATH']}",
        "RAY_worker_register_timeout_seconds": "3",
    }
    try:
        output = place.run("run", *ENDLESS, "name=workless", code=1)
    finally:
        place.environment = usual
    assert "Ray's workers die before they start" in output
    assert "raylet.err ends with:" in output
    assert "resume=workless" in output


@pytest.fixture
def look(monkeypatch, tmp_path):
    """Asks a Standstill of 60 s, after `now` seconds, of a Ray of these nodes whose raylet said this."""
    began = datetime(2026, 1, 31, 12, 0).timestamp()

    def ask(*nodes: bool, said: str = "", status: str = Trial.PENDING, now: float = 61.0) -> None:
        (tmp_path / "raylet.err").write_text(said)
        node = SimpleNamespace(get_logs_dir_path=lambda: str(tmp_path), all_processes={})
        monkeypatch.setattr(standstill.ray, "nodes", lambda: [{"Alive": alive} for alive in nodes])
        monkeypatch.setattr(standstill.ray._private.worker, "_global_node", node)
        monkeypatch.setattr(time, "time", lambda: began)
        callback = Standstill(tmp_path / "mine", 60)
        monkeypatch.setattr(time, "time", lambda: began + now)
        callback.on_step_end(0, [SimpleNamespace(status=status)])

    return ask


def death(clock: str) -> str:
    return f"[2026-01-31 {clock},880 E 33 33] (raylet) worker_pool.cc:660: The process is dead, {WORKER_DIED}.\n"


def test_a_search_waits_where_something_may_still_run(look):
    look(False, now=59)
    look(False, status=Trial.RUNNING)
    look(True)
    look(True, False, said=death("11:59:59"))  # before a trial ran


def test_a_search_that_waits_for_places_says_for_what(monkeypatch, tmp_path):
    def driver(number: str, entrypoint: str, dead: bool = False) -> dict:
        return {"JobID": number, "IsDead": dead, "Entrypoint": entrypoint}

    ended = driver("01", "python -m tune_app.run name=ended", dead=True)
    mine = driver("02", "python -m tune_app.run name=second")
    dashboard = driver("03", "python /lib/ray/dashboard/dashboard.py")
    agent = driver("05", 'ray::DashboardAgent "" "" ""')
    first = driver("04", "/v/python -m tune_app.run cluster=longleaf name=first " + "classes=many " * 9)
    table = [ended, mine, dashboard, agent, first]
    monkeypatch.setattr(standstill.ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0, "memory": 1.0})
    monkeypatch.setattr(standstill.ray, "available_resources", lambda: {"CPU": 6.0})
    monkeypatch.setattr(standstill.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "02"))
    monkeypatch.setattr(standstill.ray._private.state.state, "job_table", lambda: table)
    monkeypatch.setattr(standstill, "LOOK_EVERY_S", -1.0)
    needs = SimpleNamespace(required_resources={"CPU": 1.0, "GPU": 0.5})
    pending = SimpleNamespace(status=Trial.PENDING, placement_group_factory=needs)
    progress = Progress(4, 5, ["nuc"], Objective(metric="mean_dice"), slots=1)
    callback = Waiting(progress, tmp_path)

    callback.on_step_end(0, [pending])
    told = "waits for 1 CPU and 0.5 GPU: 6 of 8 CPU and 0 of 2 GPU free, beside tune_app.run name=first classes=many"
    assert f"0 running · {told}" in progress.headline()
    assert len(progress.headline()) < 200
    table.remove(first)
    callback.on_step_end(1, [pending])
    assert "0 running · the trials have their places, and their processes start" in progress.headline()
    monkeypatch.setattr(standstill.ray, "cluster_resources", lambda: {"CPU": 8.0})
    callback.on_step_end(1, [pending])
    assert "free, and nothing else computes here: python -m cluster status ·" in progress.headline()
    write_json(tmp_path / WAITING, {"time": time.time(), "message": "job 7: AssocGrpGRES (all is taken)"})
    callback.on_step_end(1, [pending])
    assert re.search(r"status; Slurm holds nodes back since 20\S+ \S+: job 7: AssocGrp", progress.headline())
    callback.on_step_end(2, [pending, SimpleNamespace(status=Trial.RUNNING)])
    assert "waits" not in progress.headline()


def test_a_search_ends_where_nothing_can_run(look):
    with pytest.raises(RunFailed, match=r"no trial has run for 61 s: no node of Ray lives\.\n.*resume="):
        look(False, False)
    trace = "Traceback (most recent call last):\n" + '  File "x.py", line 1, in f\n' * 20
    with pytest.raises(RunFailed, match=r"(?s)workers die before they start.*No module named torch.*resume="):
        look(True, said=death("12:00:30") + trace + "ImportError: No module named torch\n\n")

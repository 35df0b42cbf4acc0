"""sweep.sbatch on a real Slurm: signalled as before a wall limit, requeued, and the same results as without that."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_site import CPU_TRIALS, ROOT, Site

from tune_app.results.sweep import Sweep

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(2700)]
SCRIPT = str(ROOT / "cluster" / "slurm" / "sweep.sbatch")
COMPARE = ("family=compare", "trainer.epochs=6", *CPU_TRIALS)
CLOCK = ("seconds_", "patches_per_s", "compiled_graphs", "time", "date", "pid", "trial_id", "node_ip", "hostname")


def results(sweep: Path) -> dict[str, list[dict[str, object]]]:
    """{trial: its epochs, without what a clock or a place decides}."""
    return {
        trial.name: [{key: value for key, value in row.items() if not key.startswith(CLOCK)} for row in trial.history]
        for trial in Sweep(sweep).trials
    }


def submit(site: Site, name: str, *options: str) -> str:
    sizes = ("--cpus-per-task=4", "--mem=4000", f"--output={site.folder}/{name}.log")
    return site.login("sbatch", "--parsable", *sizes, *options, SCRIPT, f"name={name}", *COMPARE).split()[0]


def test_it_is_signalled_requeued_and_ends_as_an_uninterrupted_one(site: Site) -> None:
    whole = submit(site, "whole", "--nodes=2", "--time=30")
    site.until(lambda: whole not in site.jobs(), "the uninterrupted sweep", 900)
    assert Sweep(site.folder / "results" / "whole").status == "finished", site.told()

    cut = submit(site, "cut", "--nodes=2", "--time=30")
    trials = site.folder / "results" / "cut" / "trials"
    site.until(lambda: len(list(trials.glob("*/history.jsonl"))) >= 3, "trials with an epoch behind them")
    site.login("scancel", "--batch", "--signal=USR1", cut)  # what #SBATCH --signal=B:USR1@120 asks Slurm to send
    site.until(lambda: "BeginTime" in site.login("squeue", "-h", f"--jobs={cut}", "-o", "%r"), "its place in the queue")
    site.login("scontrol", "update", f"JobId={cut}", "StartTime=now")  # Slurm would hold it for two minutes
    site.until(lambda: cut not in site.jobs(), "the sweep that was signalled", 900)
    assert Sweep(site.folder / "results" / "cut").status == "finished", site.told()
    log = (site.folder / "cut.log").read_text()
    assert log.count("goes back into the queue") >= 1
    assert results(site.folder / "results" / "cut") == results(site.folder / "results" / "whole")
    site.until(lambda: site.ray_pids(1) + site.ray_pids(2) == [], "Ray's processes to end")


def test_outside_of_slurm_it_is_one_sentence(site: Site) -> None:
    assert "this is no Slurm job" in site.python("tune_app.sweep.slurm_job", "family=seesaw", code=2)

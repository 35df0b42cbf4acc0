"""Start, resume or extend a sweep:  python -m tune_app.run family=seesaw

See python -m tune_app.run --help, docs/settings.md and the README.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from search_spaces import flatten
from trainables.data import named_classes
from trainables.errors import DataError
from tune_app.errors import InputError
from tune_app.exporting.export import ExportSettings, export_and_print
from tune_app.ray_adapters.remote import found, plain, refuse_document, run_there
from tune_app.results.folders import resume_command, spoken
from tune_app.results.summary import SummarySettings, notices, summarise_and_print
from tune_app.results.sweep import Sweep
from tune_app.settings.command_line import Composed, run_composed
from tune_app.settings.document import Ended
from tune_app.settings.schema import RunSettings, Settings
from tune_app.settings.stored import stored_settings
from tune_app.sweep.announce import INTERRUPTED, announce, best_line, next_steps
from tune_app.sweep.begin import planned, refuse_elsewhere, refuse_on_this_machine, require_wandb, wanted_cluster
from tune_app.sweep.folder import new_folder
from tune_app.sweep.notify import Notify
from tune_app.sweep.prepare import prepare
from tune_app.sweep.resume import take_up
from tune_app.sweep.runner import Outcome, run_sweep

LAST_PAGE_S = 60.0
"""How long the end of a sweep waits for it."""
EXPORT = "export"
"""Folder in the sweep's for what final= has trained."""


def run(given: Composed[RunSettings]) -> int | Ended:
    """Act on composed settings; the exit code, or how the sweep ended."""
    composed = given.bare(Settings)
    settings = composed.settings
    require_wandb(settings.wandb_project)
    cluster = wanted_cluster(composed)
    if cluster.remote and not (connection := found(cluster)).here:
        refuse_document(given.settings.format)
        refuse_elsewhere(composed)
        return run_there(connection, "tune_app.run", plain(given.overrides))
    notify = Notify.of(given.settings.notify)
    if settings.resume or settings.extend:
        prepared = take_up(composed)
    else:
        settings = planned(composed)
        with suggested(settings):
            settings = dataclasses.replace(settings, data=named_classes(settings.data))
            if not settings.cluster.remote:
                refuse_on_this_machine(settings)
            prepared = prepare(settings, new_folder(settings))
    prepared = dataclasses.replace(prepared, notify=notify)
    with watched(prepared.folder) if given.settings.live else contextlib.nullcontext(lambda: None) as watch:

        def told(*about: Any) -> None:
            announce(*about, given=composed.given_keys)
            watch()

        code = notify.end_of(prepared.folder, lambda: finish(run_sweep(prepared, told)))
    return Ended(lambda: document(prepared.folder), code)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Callable[[], None]]:
    """What begins to keep the report of a sweep up to date, in a process of its own; waits for the last page."""
    begun: list[subprocess.Popen[bytes]] = []

    def watch() -> None:
        words = [sys.executable, "-m", "tune_app.report", f"sweep={folder}", "follow=true"]
        # A session of its own: Ctrl-C is for the sweep, whose last page is still to come.
        nothing = subprocess.DEVNULL
        begun.append(subprocess.Popen(words, start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing))
        print(f"report     {(folder / 'report.html').absolute().as_uri()}", flush=True)

    try:
        yield watch
    finally:
        for process in begun:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LAST_PAGE_S)


@contextlib.contextmanager
def suggested(settings: Settings) -> Iterator[None]:
    """Where data are missing, say also what tries the experiment out without any."""
    try:
        yield
    except DataError as error:
        if not settings.try_out:
            raise
        raise InputError(f"{error} Or try it out on generated data: {settings.try_out}.") from error


def finish(outcome: Outcome) -> int:
    """The leaderboard, where everything lies, and what to type next; or how to go on."""
    name = spoken(outcome.folder)
    if not outcome.complete:
        print(f"\ninterrupted; nothing recorded is lost. Resume with: python -m tune_app.run resume={name}")
        return INTERRUPTED
    sweep = Sweep(outcome.folder)
    if not sweep.validated:
        return finish_final(sweep)
    print()
    summarise_and_print(SummarySettings(sweep=str(outcome.folder)))
    board = sweep.leaderboard()
    scored = bool(board["rank"].notna().any())
    print("\n" + best_line(sweep, board.iloc[0]["name"]) if scored else "")
    print(f"sweep folder   {outcome.folder}")
    settings = stored_settings(outcome.folder)
    steps = next_steps(name, settings) if scored else [f"python -m tune_app.summary sweep={name}"]
    print("next           " + "\n               ".join(steps))
    if not scored:
        print("error: no trial ended with a score; see the reasons above", file=sys.stderr)
        return 1
    return 0


def document(folder: Path) -> dict[str, Any]:
    """What format=json prints of a sweep that has come to its end, or was interrupted."""
    sweep, name = Sweep(folder), spoken(folder)
    board = sweep.leaderboard()
    ranked = board.loc[board["rank"].notna(), "name"]
    best = None
    if len(ranked):
        trial = sweep.trial(ranked.iloc[0])
        best = {
            "name": trial.name,
            "family": trial.family,
            "preset": trial.preset,
            "seed": trial.seed,
            "score": trial.score(sweep.metric),
            "violation": trial.violation,
            "epoch": trial.best["epoch"],
            "params": trial.loss.get("params", {}) | flatten(trial.sections),
            "folder": trial.folder,
        }
    interrupted = sweep.status != "finished"
    steps = [resume_command(folder)] if interrupted else next_steps(name, stored_settings(folder)) if best else []
    exported = folder / EXPORT / "1"
    return {
        "sweep": sweep.name,
        "folder": folder,
        "status": sweep.status,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "trials": Counter(trial.status for trial in sweep.trials),
        "epochs": sum(trial.epochs for trial in sweep.trials),
        "best": best,
        "validated": sweep.validated,
        "export": exported if not sweep.validated and exported.is_dir() else None,
        "notices": notices(sweep),
        "next": steps if sweep.validated or interrupted else [],
    }


def finish_final(sweep: Sweep) -> int:
    """Export what final= has trained into its folder, and say what it is."""
    if not sweep.leaderboard()["rank"].notna().any():
        print(f"error: the training failed: python -m tune_app.summary sweep={spoken(sweep.folder)}", file=sys.stderr)
        return 1
    print()
    out = sweep.folder / EXPORT
    export_and_print(ExportSettings(sweep=str(sweep.folder), top=1, out=str(out), overwrite=True))
    print(f"use it: python -m tune_app.predict checkpoint={out / '1'} volume=PATH out=pred.zarr")
    return 0


def main() -> None:
    run_composed("run", RunSettings, run)


if __name__ == "__main__":
    main()

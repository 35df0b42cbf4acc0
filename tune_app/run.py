"""Start, resume or extend a sweep:  python -m tune_app.run family=seesaw

See python -m tune_app.run --help, docs/settings.md and the README.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator

from trainables.data import named_classes
from trainables.errors import DataError
from tune_app.errors import InputError
from tune_app.exporting.export import ExportSettings, export_and_print
from tune_app.ray_adapters.remote import found, plain, run_there
from tune_app.results.folders import spoken
from tune_app.results.summary import SummarySettings, summarise_and_print
from tune_app.results.sweep import Sweep
from tune_app.settings.command_line import Composed, run_composed
from tune_app.settings.schema import Settings
from tune_app.settings.stored import stored_settings
from tune_app.sweep.announce import INTERRUPTED, announce, best_line, next_steps
from tune_app.sweep.begin import planned, refuse_elsewhere, refuse_on_this_machine, require_wandb, wanted_cluster
from tune_app.sweep.folder import new_folder
from tune_app.sweep.prepare import prepare
from tune_app.sweep.resume import take_up
from tune_app.sweep.runner import Outcome, run_sweep

EXPORT = "export"
"""Folder in the sweep's for what final= has trained."""


def run(composed: Composed[Settings]) -> int:
    """Act on composed settings; the exit code."""
    settings = composed.settings
    require_wandb(settings.wandb_project)
    cluster = wanted_cluster(composed)
    if cluster.remote and not (connection := found(cluster)).here:
        refuse_elsewhere(composed)
        return run_there(connection, "tune_app.run", plain(composed.overrides))
    if settings.resume or settings.extend:
        prepared = take_up(composed)
    else:
        settings = planned(composed)
        with suggested(settings):
            settings = dataclasses.replace(settings, data=named_classes(settings.data))
            if not settings.cluster.remote:
                refuse_on_this_machine(settings)
            prepared = prepare(settings, new_folder(settings))
    return finish(run_sweep(prepared, functools.partial(announce, given=composed.given_keys)))


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


def finish_final(sweep: Sweep) -> int:
    """Export what final= has trained into its folder, and say what it is."""
    if not sweep.leaderboard()["rank"].notna().any():
        print(f"error: the training failed: python -m tune_app.summary sweep={spoken(sweep.folder)}", file=sys.stderr)
        return 1
    print()
    out = sweep.folder / EXPORT
    code = export_and_print(ExportSettings(sweep=str(sweep.folder), top=1, out=str(out), overwrite=True))
    print(f"use it: python -m tune_app.predict checkpoint={out / '1'} volume=PATH out=pred.zarr")
    return code


def main() -> None:
    run_composed("run", Settings, run)


if __name__ == "__main__":
    main()

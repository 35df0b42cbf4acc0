"""python -m tune_app.confirm sweep=latest top=4 replicates=5: is the winner a winner?

Trains the first configurations of a sweep and the untuned baseline again, at full budget and on fresh seeds, the same
for all of them, and says which can be told apart. A sweep of its own in the sweep's folder: watched, interrupted,
resumed and read like any other. See docs/confirm.md.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tune_app.confirmation.arms import Plan, confirmations, make_plan, new_folder, read_plan
from tune_app.confirmation.earlier import with_earlier_noise
from tune_app.confirmation.runs import conclude, has_ended, runs_to_train
from tune_app.confirmation.settings import UNTIL_DECIDED, ConfirmSettings
from tune_app.errors import InputError
from tune_app.evidence import Design
from tune_app.ray_adapters.remote import found, plain, refuse_document, run_there
from tune_app.ray_adapters.session import RaySession, TrialResources
from tune_app.results.finding import CONFIRMATION, DROPPABLE, confirmed_table, read_confirmation, said
from tune_app.results.folders import LOCK, find_sweep, is_confirmation, lock_is_held, resume_command, spoken
from tune_app.results.manifest import set_status
from tune_app.results.sweep import Sweep
from tune_app.results.tables import sentences, text_pages
from tune_app.settings.command_line import Composed
from tune_app.settings.document import Ended
from tune_app.settings.schema import ClusterSettings, SearchSettings, Settings
from tune_app.settings.stored import FREQUENCIES, stored_settings
from tune_app.settings.terminal import columns
from tune_app.sweep.announce import INTERRUPTED, announcement, tell
from tune_app.sweep.begin import require_wandb
from tune_app.sweep.folder import in_use, require_writable, space_in
from tune_app.sweep.notify import Notify
from tune_app.sweep.prepare import Prepared, prepare
from tune_app.sweep.resume import refuse_other_data, with_allowed
from tune_app.sweep.runner import Outcome, run_sweep


def confirm(composed: Composed[ConfirmSettings]) -> int | Ended:
    """Act on composed settings; the exit code, or how the confirmation ended."""
    require_wandb(composed.settings.wandb_project)
    cluster = wanted_cluster(composed)
    if cluster.remote and not (connection := found(cluster)).here:
        if not composed.settings.resume:
            refuse_unready(Sweep(composed.settings.sweep, composed.settings.results_dir))
        refuse_document(composed.settings.format)
        return run_there(connection, "tune_app.confirm", plain(composed.overrides))
    notify = Notify.of(composed.settings.notify)
    plan, prepared = take_up(composed) if composed.settings.resume else begin(composed)

    def work() -> int:
        if train(plan, replace(prepared, notify=notify)).complete:
            return finish(plan, prepared.folder)
        print(f"\ninterrupted; nothing recorded is lost. Resume with: {resume_command(prepared.folder)}")
        return INTERRUPTED

    code = notify.end_of(prepared.folder, work)
    return Ended(lambda: document(prepared.folder), code)


def wanted_cluster(composed: Composed[ConfirmSettings]) -> ClusterSettings:
    """Where the runs are to train: as asked, else where the sweep did, or the confirmation that goes on."""
    asked = composed.settings
    key, given = ("resume", asked.resume) if asked.resume else ("sweep", asked.sweep)
    folder = find_sweep(given, asked.results_dir, key=key)
    begun = confirmations(folder)[-1:] if asked.resume else []
    return with_allowed(stored_settings(begun[0] if begun else folder), composed).cluster


def begin(composed: Composed[ConfirmSettings]) -> tuple[Plan, Prepared]:
    """A new confirmation. Raises InputError before anything is written."""
    asked = composed.settings
    sweep = Sweep(asked.sweep, asked.results_dir)
    refuse_unready(sweep)
    folder = new_folder(sweep.folder)
    try:
        require_writable(sweep.folder)
    except InputError:
        raise InputError(
            f"sweep={sweep.name}: {sweep.folder} cannot be written, and a confirmation lies in it. Make it writable, "
            "or copy the sweep to a folder of your own"
        ) from None
    settings = settings_of(sweep.folder, composed)
    prepared = prepare(settings, folder, chosen=())
    refuse_other_data(prepared, sweep.folder)
    plan = make_plan(
        sweep,
        prepared.counts,
        prepared.window_voxels,
        top=asked.top,
        rounds=asked.rounds,
        most=asked.max_replicates if asked.replicates == UNTIL_DECIDED else 0,
        budget=asked.budget_gpu_hours,
        device=sweep.device,
        score=asked.score,
    )
    if asked.noise == "borrowed":
        plan = with_earlier_noise(plan, sweep, asked.results_dir)
    return plan, replace(prepared, settings=replace(settings, seed=plan.first_seed, seeds=max(1, plan.rounds)))


def refuse_unready(sweep: Sweep) -> None:
    """Raise InputError for a sweep that cannot be confirmed now."""
    if is_confirmation(sweep.folder):
        raise InputError(
            f"sweep={sweep.folder}: is itself a confirmation. Give the sweep it confirms: {sweep.folder.parent}"
        )
    if not sweep.validated:
        raise InputError(
            f"sweep={sweep.name}: was trained on the validation crops, too (final=), so there is nothing to confirm it "
            "on. Give the sweep that its configuration comes from"
        )
    if sweep.status == "running":
        raise InputError(
            f"sweep={sweep.name}: is still running, so its best are not known yet. Wait for its end, or end it with "
            "Ctrl-C and resume it later"
        )
    unfinished = [folder for folder in confirmations(sweep.folder) if not (folder / CONFIRMATION).is_file()]
    if unfinished:
        raise InputError(
            f"sweep={sweep.name}: {unfinished[-1]} is a confirmation that has not come to its end. Resume it: "
            f"{resume_command(unfinished[-1])}, or remove that folder"
        )


def settings_of(sweep: Path, composed: Composed[ConfirmSettings]) -> Settings:
    """The sweep's settings, for runs to the end of a fixed list."""
    stored = with_allowed(stored_settings(sweep), composed)
    counts = sweep / FREQUENCIES
    return replace(
        stored,
        family="compare",
        preset="",
        trial="",
        space={},
        search=SearchSettings(),
        scheduler=replace(stored.scheduler, name="none"),
        frequencies=str(counts) if counts.is_file() else stored.frequencies,
    )


def take_up(composed: Composed[ConfirmSettings]) -> tuple[Plan, Prepared]:
    """The unfinished confirmation of resume=, with its own plan and settings."""
    asked = composed.settings
    fixed = [
        key
        for key in ("sweep", "top", "replicates", "max_replicates", "budget_gpu_hours", "score", "noise")
        if key in composed.given_keys
    ]
    if fixed:
        raise InputError(
            f"{fixed[0]}={getattr(asked, fixed[0])}: a confirmation that goes on keeps its plan. Leave {fixed[0]} out"
        )
    given = find_sweep(asked.resume, asked.results_dir, key="resume")
    folder = given if is_confirmation(given) else next(iter(confirmations(given)[::-1]), None)
    if folder is None:
        raise InputError(
            f"resume={asked.resume}: {given.name} has no confirmation. Begin one: python -m tune_app.confirm "
            f"sweep={spoken(given)}"
        )
    if lock_is_held(folder / LOCK):
        raise in_use(folder)
    plan = read_plan(folder)
    prepared = prepare(with_allowed(stored_settings(folder), composed), folder, resumed=True, chosen=())
    refuse_other_data(prepared, folder)
    return plan, prepared


def train(plan: Plan, prepared: Prepared) -> Outcome:
    """Train what the plan asks for, stage after stage where it has stages. The plan is written before anything else."""

    folder = prepared.folder
    if not prepared.resumed:
        write_plan(plan, folder)
    try:
        while True:
            runs, why = runs_to_train(plan, Sweep(folder) if prepared.resumed else None)
            if not runs:
                set_status(folder, "finished")
                return Outcome(folder=folder, complete=True)
            announce = partial(announce_stage, plan, why)
            outcome = run_sweep(replace(prepared, arms=runs, baseline=plan.baseline), announce)
            if not outcome.complete:
                return outcome
            set_status(folder, "interrupted")  # another stage may be to come
            prepared = replace(prepared, resumed=True, extended=True)
    except KeyboardInterrupt:
        if not (folder / "sweep.yaml").is_file():
            raise
        return Outcome(folder=folder, complete=False)
    finally:
        if not (folder / "sweep.yaml").is_file():  # it was refused, or interrupted before it began
            shutil.rmtree(folder, ignore_errors=True)


def write_plan(plan: Plan, folder: Path) -> None:
    """Make the folder, with the plan in it. Raises InputError where another confirmation has taken it meanwhile."""
    try:
        folder.mkdir()
    except FileExistsError:
        raise InputError(
            f"sweep={plan.sweep}: another confirmation has just begun in {folder}. Wait for its end, or resume it: "
            f"{resume_command(folder)}"
        ) from None
    plan.write(folder)


def announce_stage(plan: Plan, why: str, prepared: Prepared, session: RaySession, resources: TrialResources) -> None:
    """What a person wants to know before the first run of a stage."""
    left = len(prepared.arms) - sum(map(has_ended, Sweep(prepared.folder).trials))
    seeds = sorted({run.seed for run in prepared.arms})
    names = ", ".join(arm.name for arm in plan.arms if arm.name != plan.baseline)
    if prepared.phantom:
        tell("*** PHANTOM DATA: generated, for trying things out ***")
    tell(f"confirming {plan.sweep}: {names}, and {plan.baseline}, the untuned baseline")
    tell(f"runs       {left} to train, seeds {seeds[0]} to {seeds[-1]}; {why}; none is stopped early")
    if isinstance(plan.design, Design):
        tell(f"budget     {plan.design.budget:g} {plan.device}-hours, in {plan.design.looks} stages at most")
    if plan.earlier is not None:
        where = ", ".join(plan.earlier.where)
        tell(f"noise      sd {plan.earlier.sd:.4f} of {where}, pooled with that of these runs unless an F-test objects")
    lines = announcement(prepared, session, resources)
    for line in lines[1:] if prepared.resumed else lines:  # the plan is that of the first stage
        tell(line)
    sys.stdout.flush()


def finish(plan: Plan, folder: Path) -> int:
    """The finding, where it lies, and what to type next."""
    with space_in(folder.parent, resume_command(folder)):
        found = conclude(plan, folder)
    if not found["arms"]:
        print(
            f"error: no run ended with a score. See why: python -m tune_app.summary sweep={spoken(folder)}",
            file=sys.stderr,
        )
        return 1
    print()
    print(finding_text(found, columns()))
    print(f"\nconfirmation   {folder}")
    print("next           " + "\n               ".join(next_steps(folder)))
    return 0


def document(folder: Path) -> dict[str, Any]:
    """What format=json prints of a confirmation that has come to its end, or was interrupted."""
    runs, found = Sweep(folder), read_confirmation(folder)
    return {
        "sweep": spoken(folder.parent),
        "folder": folder,
        "status": runs.status,
        "runs": Counter(trial.status for trial in runs.trials),
        "finding": found or None,
        "next": next_steps(folder) if found else [resume_command(folder)] if runs.status != "finished" else [],
    }


def next_steps(folder: Path) -> list[str]:
    """Commands worth typing after a confirmation."""
    name = spoken(folder.parent)
    return [f"python -m tune_app.export sweep={name} top=3 out=best/", f"python -m tune_app.report sweep={name}"]


def finding_text(found: Mapping[str, Any], width: int | None) -> str:
    """The arms as a table, and what follows from it."""
    table = text_pages(confirmed_table(found), width, DROPPABLE, ("arm",))
    return "\n\n".join([table, sentences("\n".join(said(found)), width)])

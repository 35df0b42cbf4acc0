"""What `run` prints before the first trial and after the last."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Iterable

from search_spaces import ClassCounts, flatten, untuned
from trainables.data.sources import open_source
from trainables.files import write_text
from trainables.hardware import compiler_problem
from trainables.losses import is_exclusive
from trainables.settings import FIVE_CLASSES
from tune_app.planning.forecast import PLAN, batches, budget, make_plan, share
from tune_app.planning.pace import earlier_pace
from tune_app.ray_adapters.session import RaySession, TrialResources, dashboard_hint
from tune_app.results.summary import NOT_VALIDATED
from tune_app.results.sweep import Sweep
from tune_app.results.tables import counted, in_words, sentences
from tune_app.search.arms import left_out, planned_arms, same_arms
from tune_app.search.warm_start import told_of
from tune_app.settings.fitting import shortages
from tune_app.settings.objective import ObjectiveSettings
from tune_app.settings.schema import Settings
from tune_app.settings.terminal import columns
from tune_app.sweep.prepare import Prepared

RARE = 0.01
"""Share of its annotated voxels below which a class is called rare."""
TO_COPY = ("sweep  ", "dashboard  ", "tensorboard ", "optuna-dashboard ")
"""Beginnings of lines that are not wrapped."""
INTERRUPTED = 130
"""Exit code of a run that a person ended."""


def tell(line: str) -> None:
    """Print a line; in a terminal wrapped between words, unless it is there to be copied."""
    print(line if line.startswith(TO_COPY) else sentences(line, columns(), " " * 11))


def announce(
    prepared: Prepared, session: RaySession, resources: TrialResources, *, given: Collection[str] = ()
) -> None:
    """What a person wants to know before the first trial. given: the keys of the command line."""
    settings = prepared.settings
    if prepared.phantom:
        real = open_source(settings.data).real
        tell(f"*** PHANTOM DATA: generated, for trying things out. Real data: {real} ***")
    elif settings.experiment_name == "" and settings.trainer.epochs < 20:
        tell("note: the quick budget on real data; trainer=published or an experiment= is a longer one")
    what = settings.preset or settings.trial or f"family={settings.family}"
    searcher = f" ({settings.search.name})" if prepared.space else ""
    stopping = (
        f"{'promoting ' if settings.scheduler.name == 'promote' else ''}ASHA from epoch {settings.grace_period}, "
        f"η = {settings.scheduler.reduction_factor:g}"
        if settings.early_stopping
        else "no early stopping"
    )
    if settings.data.train_on == "all":
        tell(f"!! {NOT_VALIDATED} The weights of epoch {settings.trainer.keep_epoch} are kept")
    tell(f"sweep      {prepared.folder}")
    sizes = prepared.sizes() or [settings]
    tell(
        f"search     {what}{searcher}, {counted(prepared.num_trials, 'trial')} of up to "
        f"{budget(sizes, settings.trainer.epochs)}; {stopping}"
    )
    for line in told_of(settings):
        tell(f"warm start {line}")
    if settings.batch == "auto":
        tell(f"batches    {batches(sizes)}")
    if settings.objective != ObjectiveSettings():
        order, bounds = settings.order, f", with {settings.order.bounds}" if settings.order.bounds else ""
        tell(f"objective  the {'highest' if order.mode == 'max' else 'lowest'} {in_words(order.metric)}{bounds}")
    if prepared.baseline:
        tell(f"baseline   {_baseline_line(prepared)}")
    tell(f"classes    {classes_line(prepared.counts)}")
    for line in [*announcement(prepared, session, resources), *_warnings(prepared, given)]:
        tell(line)
    sys.stdout.flush()


def announcement(prepared: Prepared, session: RaySession, resources: TrialResources) -> list[str]:
    """What it will take, and where to watch it."""
    settings = prepared.settings
    at_once = counted(resources.slots, "trial")
    problem = compiler_problem() if settings.trainer.compile and not settings.cluster.remote else ""
    return [
        f"plan       {record_plan(prepared, resources)}",
        f"resources  {at_once} at once, each {share(prepared.sizes() or [settings], settings, resources)}",
        f"dashboard  {dashboard_hint(session)}",
        f"tensorboard --logdir {shlex.quote(str(prepared.folder / 'trials'))}",
        f"optuna-dashboard {shlex.quote(str(prepared.folder / 'study.journal'))}",
        *([f"warning: training runs uncompiled, and slower: {problem}"] if problem else []),
    ]


def classes_line(counts: ClassCounts) -> str:
    """The share of its annotated voxels that each class fills, and which classes are rare."""
    shares = {name: n / known for name, n, known in zip(counts.classes, counts.positive, counts.known) if known}
    rare = [name for name, share in shares.items() if share < RARE]
    told = ", ".join(f"{name} {100 * share:.2g} %" for name, share in shares.items())
    return told + (f"; rare: {', '.join(rare)}" if rare else "")


def _baseline_line(prepared: Prepared) -> str:
    """Which arm the baseline is."""
    preset = untuned(prepared.settings.family, prepared.settings.families).name
    name = prepared.baseline if prepared.baseline == preset else f"{prepared.baseline}, which is the same as {preset}"
    return f"{name}; ASHA does not stop it" if prepared.settings.early_stopping else name


def _warnings(prepared: Prepared, given: Collection[str]) -> Iterable[str]:
    settings = prepared.settings
    yield from (f"warning: {notice}" for notice in (*prepared.notices, *shortages(prepared.sizes())))
    yield from (f"note: {remark}" for remark in prepared.dataset.remarks)
    for names in same_arms(planned_arms(settings, prepared.space), prepared.counts, prepared.window_voxels):
        once = "one arm, compared as one" if settings.listed else "only the first is tried"
        yield f"note: {', '.join(names)} come out as the same configuration: {once}"
    trial = prepared.untuned.trial(prepared.counts) if prepared.space else {}
    own = flatten({section: values for section, values in trial.items() if section != "loss"})
    if unused := [key for key in own if key in given]:
        yield f"note: {', '.join(unused)} is not used as given: family={settings.family} gives each trial its own"
    for name in left_out(settings):
        yield f"note: {name} is left out: it has weights for other classes than {', '.join(settings.outputs)}"
    if prepared.space and prepared.num_trials < settings.search.num_samples and not settings.listed:
        yield f"note: the space holds {prepared.num_trials} different configurations, so no more are tried"
    losses = [arm.trial(prepared.counts)["loss"] for arm in prepared.arms]
    weights: list[list[float]] = [loss["params"]["weights"] for loss in losses if is_exclusive(loss["name"])]
    if weights and settings.data.sampling == "class_aware":
        alike = "data.sampling=class_aware already shows all classes alike"
        if uneven := sum(max(own) > 1.001 * min(own) for own in weights):
            yield f"warning: {alike}, and {uneven} of the planned trials weigh rare classes once more"
        else:
            yield f"warning: {alike}, so class weights from counts as sampled come out equal"
    counts = prepared.dataset.counts("train")
    for name, known in zip(counts["classes"], counts["known"]):
        if not known:
            yield f"warning: class {name} is annotated in no training crop: its channel learns nothing and has no Dice"


def best_line(sweep: Sweep, name: str) -> str:
    """The configuration of the trial `name` in full."""
    best = sweep.trial(name)
    told = best.loss.get("params", {}) | flatten(best.sections)
    params = "  ".join(f"{key}={value}" for key, value in told.items())
    role = "nearest" if best.violation else "best"
    return f"{role:<15}{best.name}: {best.family}  {params}  seed={best.seed}, epoch {best.best['epoch']}"


def next_steps(name: str, settings: Settings) -> list[str]:
    """Commands worth typing after a sweep."""
    steps = [
        f"python -m tune_app.confirm sweep={name} top=4 replicates=5",
        f"python -m tune_app.export sweep={name} top=3 out=best/",
        f"python -m tune_app.report sweep={name}",
    ]
    if not settings.families and {*settings.data.classes} <= {*FIVE_CLASSES}:  # those of the published table
        steps.append(f"python -m tune_app.summary sweep={name} reference=published")
    if not settings.listed:
        steps.append(f"python -m tune_app.run extend={name} search.num_samples=20")
    return steps


def record_plan(prepared: Prepared, resources: TrialResources) -> str:
    """Write plan.json into the sweep's folder and return the plan in one line.

    A sweep that goes on keeps its first plan; one that is extended gets another, of all its trials.
    """
    settings = prepared.settings
    exempt = int(bool(prepared.baseline) and settings.early_stopping)
    pace = earlier_pace(settings, resources)
    plan = make_plan(settings, resources, trials=prepared.num_trials, exempt=exempt, pace=pace, sizes=prepared.sizes())
    path = prepared.folder / PLAN
    if not path.exists() or prepared.extended:
        arms = [[arm.label, arm.seed] for arm in prepared.arms]  # so that a page can say what comes next
        write_text(path, json.dumps({**plan.as_dict(), "arms": arms}, indent=1) + "\n")
    return plan.line()

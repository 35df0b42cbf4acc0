"""The one place where a Ray Tune `Tuner` is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ray.tune.schedulers import TrialScheduler

from cluster.state import cluster_folder
from search_spaces import Sections
from trainables.trial import SegmentationTrial
from tune_app.ray_adapters.checkpoint_cap import CheckpointKeeper
from tune_app.ray_adapters.gauges import SweepGauges, hours_in
from tune_app.ray_adapters.loggers import ForgetEnded, NoProgress, in_place_loggers
from tune_app.ray_adapters.session import TrialResources
from tune_app.results.folders import is_confirmation
from tune_app.results.trial import PROMOTED, devices_in, read_config
from tune_app.search.early_failure import Watch
from tune_app.search.guard import guard_of
from tune_app.search.recovery import recorded_curves
from tune_app.search.scheduler import Cost, PromotingAsha, ResumableAsha, RunToTheEnd, trial_name
from tune_app.search.searcher import Budget, StudySearcher
from tune_app.search.study import trial_of
from tune_app.settings.fitting import of_trial
from tune_app.settings.schema import laid_over, model_of
from tune_app.sweep.prepare import Prepared
from tune_app.sweep.progress import Display
from tune_app.sweep.slots import FreeSlots
from tune_app.sweep.standstill import LongWait, Shared, Standstill, Waiting


def build_tuner(
    prepared: Prepared,
    resources: TrialResources,
    study: optuna.Study,
    display: Display,
    trainable: type[tune.Trainable] = SegmentationTrial,
) -> tune.Tuner:
    """A Tuner that goes on from what the study and the sweep folder hold.

    trainable: what trains; another than ours only where the rest is measured.
    """
    settings = prepared.settings
    scheduler = build_scheduler(prepared, study, display.watch)
    searcher = build_searcher(prepared, resources, study, scheduler)
    callbacks = _callbacks(prepared, resources, study, display)
    if settings.cluster.remote and not resources.promised:
        callbacks.append(FreeSlots(resources, searcher.allow, most=settings.resources.max_concurrent))
    return tune.Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher knows when it is finished
            reuse_actors=True,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
        ),
        run_config=RunConfig(
            name="trials",
            storage_path=str(prepared.folder),
            callbacks=callbacks,
            failure_config=FailureConfig(max_failures=settings.resources.max_failures),
            # One where a trial pauses: a note of where its own checkpoint lies.
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=settings.verbose,
            log_to_file=False,
        ),
    )


def build_searcher(
    prepared: Prepared, resources: TrialResources, study: optuna.Study, scheduler: TrialScheduler
) -> StudySearcher:
    settings = prepared.settings
    folder, taken = prepared.folder / "trials", resources.as_dict()

    def configure(run: Mapping[str, Any], trial: Sections, seed: int) -> dict[str, Any]:
        own = of_trial(settings, trial)
        sections = {name: asdict(getattr(own, name)) for name in ("data", "task", "model", "trainer", "hardware")}
        sections["objective"] = asdict(settings.order)
        run = {**run, "dir": str(folder / run["name"])}
        own_taken = taken | trial.get("resources", {})
        return {"run": run, "loss": dict(trial["loss"]), "seed": seed, "resources": own_taken, **sections}

    return StudySearcher(
        study=study,
        arms=prepared.arms,
        space=prepared.space,
        family=settings.family,
        kind=settings.search.name,
        seed=settings.seed,
        startup_trials=settings.search.startup_trials,
        budget=Budget(num_trials=prepared.num_trials, epochs=settings.trainer.epochs),
        counts=prepared.counts,
        window_voxels=prepared.window_voxels,
        configure=configure,
        untuned=prepared.untuned.signature(prepared.counts, prepared.window_voxels),
        objective=settings.order,
        promoting=scheduler if isinstance(scheduler, PromotingAsha) else None,
        guard=guard_of(settings, prepared.space),
        slots=resources.slots,
    )


def build_scheduler(prepared: Prepared, study: optuna.Study, watch: Watch | None = None) -> TrialScheduler:
    """ASHA, stopping or promoting, with the rungs of the sweep so far, or none."""
    costs = recorded_costs(prepared, study) if prepared.compares_device_seconds else None
    settings = prepared.settings
    if not settings.early_stopping:
        return RunToTheEnd(metric=settings.order.metric, watch=watch)
    if settings.scheduler.name == "promote":
        return _promoting(prepared, study, watch)
    return ResumableAsha(
        objective=settings.order,
        max_epochs=settings.trainer.epochs,
        grace_period=settings.grace_period,
        reduction_factor=settings.scheduler.reduction_factor,
        early=settings.scheduler.early,
        curves=recorded_curves(study, prepared.folder, settings.order, whole=costs is not None),
        costs=costs,
        baseline=prepared.baseline,
        watch=watch,
    )


def _promoting(prepared: Prepared, study: optuna.Study, watch: Watch | None) -> PromotingAsha:
    settings = prepared.settings
    known = {t.user_attrs["name"]: t for t in study.get_trials(deepcopy=False) if "name" in t.user_attrs}

    def note(name: str, rung: int) -> None:
        number = int(name.partition("_")[0])
        study._storage.set_trial_user_attr(trial_of(study, number)._trial_id, PROMOTED, rung)

    return PromotingAsha(
        objective=settings.order,
        max_epochs=settings.trainer.epochs,
        grace_period=settings.grace_period,
        reduction_factor=settings.scheduler.reduction_factor,
        curves=recorded_curves(study, prepared.folder, settings.order),
        promoted={name: t.user_attrs[PROMOTED] for name, t in known.items() if PROMOTED in t.user_attrs},
        ended=[name for name, t in known.items() if t.state.is_finished()],
        baseline=prepared.baseline,
        watch=watch,
        on_promote=note,
    )


def recorded_costs(prepared: Prepared, study: optuna.Study) -> dict[str, Cost]:
    """{trial name: its model and devices}, of the trials in the study; devices are those that it last ran on."""
    costs = {}
    for trial in study.get_trials(deepcopy=False):
        if (name := trial.user_attrs.get("name")) is not None:
            config, _ = read_config(prepared.folder / "trials" / name)
            own = laid_over(prepared.settings, trial.user_attrs.get("sections", {}))
            costs[name] = Cost(model_of(asdict(own)), devices_in(config))
    return costs


def _callbacks(prepared: Prepared, resources: TrialResources, study: optuna.Study, display: Display) -> list[Callback]:
    """In the order in which they hear of a result; whoever asks Ray for its tables needs what Ray remembers."""
    settings = prepared.settings
    callbacks = [*in_place_loggers(study), _keeper(prepared, study), display, *_wandb(settings.wandb_project)]
    callbacks.append(Standstill(prepared.folder, settings.cluster.standstill_s))
    of_slurm = cluster_folder(settings.cluster.name) if not settings.cluster.address else None
    if settings.cluster.remote:
        callbacks += [Waiting(display.progress, of_slurm), Shared(prepared.folder)]
    if prepared.notify.words:
        callbacks.append(LongWait(prepared.notify, prepared.folder, display.progress))
    if settings.cluster.remote or settings.cluster.dashboard:
        callbacks.append(_gauges(prepared, resources, study))
    return callbacks if settings.verbose else [*callbacks, NoProgress(), ForgetEnded()]


def _gauges(prepared: Prepared, resources: TrialResources, study: optuna.Study) -> SweepGauges:
    """The gauges, with what earlier drivers spent. A confirmation's name is that of its sweep and its own."""
    folder, gpus = prepared.folder, resources.gpus
    name = f"{folder.parent.name}/{folder.name}" if is_confirmation(folder) else folder.name
    before = hours_in(folder.glob("trials/*/history*.jsonl")) * gpus if gpus else 0.0
    order = prepared.settings.order
    rows = [row for rows in recorded_curves(study, folder, order).values() for row in rows]
    best = max(rows, key=order.key, default={})
    return SweepGauges(
        name, study, objective=order, best=best, planned=prepared.num_trials, gpus=gpus, gpu_hours=before
    )


def _keeper(prepared: Prepared, study: optuna.Study) -> CheckpointKeeper:
    order, caps = prepared.settings.order, prepared.settings.checkpoints
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    names, curves = {trial.user_attrs["name"] for trial in ended}, recorded_curves(study, prepared.folder, order)
    best = {
        prepared.folder / "trials" / name: max(map(order.key, rows), default=order.key({}))
        for name, rows in curves.items()
        if name in names
    }
    return CheckpointKeeper(caps.max_number, caps.max_gb, order, best)


def _wandb(project: str) -> list[Any]:
    """Weights & Biases through Ray's own callback, where a project is named."""
    if not project:
        return []
    from ray.air.integrations.wandb import WandbLoggerCallback

    return [WandbLoggerCallback(project=project)]

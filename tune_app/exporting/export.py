"""python -m tune_app.export sweep=latest top=3 out=best: the best configurations as folders that stand on their own.

out/1/config.yaml          complete; python -m tune_app.run trial=out/1/config.yaml trains it again. Under `thresholds`:
                           where to cut the output of the model, and what that is worth
out/1/metrics.json         every epoch
out/1/model.safetensors    the weights of the best epoch, or of epoch=20; thresholds in its metadata
out/1/model.pt2            the same as a program: raw grey values in, logits out; PyTorch alone runs it
out/1/model.json           what that program takes, its classes and where to cut its logits
out/1/README.md            what this is, and how to use it
out/1/manifest.json        where it came from, and the sha256 of the other files

ensemble=per_class writes one folder instead, of the best network for every class: see `tune_app.exporting.ensemble`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from trainables.calibration import CALIBRATED
from trainables.checkpoint import KEPT
from trainables.settings import PATH, require, require_choice, require_in
from tune_app.confirmation.runs import is_sound
from tune_app.errors import InputError, written
from tune_app.exporting.ensemble import ENSEMBLE_MEAN, PER_CLASS, put_together, told_of_ensemble
from tune_app.exporting.mlflow_store import export_to_mlflow
from tune_app.exporting.model_file import ABOUT, WEIGHTS, best_state, write_model, write_program
from tune_app.exporting.operating_point import LARGEST, inference_shift, inherited_point, metadata, operating_point
from tune_app.results.finding import confirmation_of, in_confirmed_order, read_confirmation
from tune_app.results.folders import CONFIRMATIONS, is_sweep
from tune_app.results.manifest import MANIFEST, file_sha256, git_revision, now, package_versions, read_manifest
from tune_app.results.run import EXPORT
from tune_app.results.summary import NOT_VALIDATED, PHANTOM
from tune_app.results.sweep import Sweep
from tune_app.results.tables import in_words
from tune_app.results.trial import Trial, read_json
from tune_app.settings.document import FORMATS, Ended, to_plain
from tune_app.settings.stored import TRIAL

SECTIONS = ("loss", "data", "task", "model", "trainer", "hardware", "resources")
NEEDED = ("loss", "data", "model", "trainer", "hardware")
"""Those that every config has: earlier versions knew one task."""
Tell = Callable[[str], None]
USE = """With PyTorch alone, from this folder:

```python
import json
import numpy as np
import torch

about = json.load(open("model.json"))  # classes, logit (where to cut), voxel_nm, stride
network = torch.export.load("model.pt2").module()
em = torch.from_numpy(np.load("em.npy"))  # uint8 (slices, height, width), sides multiples of the stride
with torch.no_grad():
    logits = network(em[:, None])  # (slices, classes, height, width)
masks = logits > torch.tensor(about["logit"]).view(-1, 1, 1)
```

On a card, where `.to("cuda")` is not enough:

    from torch.export.passes import move_to_device_pass
    network = move_to_device_pass(torch.export.load("model.pt2"), "cuda").module()"""
VOLUMES = {
    (2, True): ("em.swapaxes(0, 1)", ""),
    (3, False): ("em[None, None]", "[0].swapaxes(0, 1)"),
    (3, True): ("em[None]", "[0].swapaxes(0, 1)"),
}
"""By the network's dimensions, and whether it takes several channels: its images from `em`, and slices first again."""
README = """# {title}

Trial {trial} of the sweep {sweep} ({family}), weights of epoch {epoch}: {worth}.
Classes: {classes}.
{notice}
{use}

`config.yaml` is the whole configuration, `manifest.json` says where it came from and `metrics.json` how it was trained.
To train it again: `python -m tune_app.run trial=config.yaml`
"""


@dataclass(kw_only=True)
class ExportSettings:
    """What `python -m tune_app.export` takes."""

    sweep: str = field(default="latest", metadata=PATH)
    """latest, the name of a sweep in results_dir, or its folder. It may still be running."""
    results_dir: str = field(default="", metadata=PATH)
    """Folder of the sweeps; empty: $TUNE_APP_RESULTS, the user's setting, or results."""
    top: int = 3
    """How many of the leaderboard's first rows to export."""
    epoch: int = 0
    """Weights and scores of this epoch instead of the best one; a multiple of trainer.keep_checkpoint_every."""
    out: str = field(default="best", metadata=PATH)
    """Folder to write 1/, 2/, … into. An earlier export there is replaced; anything else is left alone."""
    to: str = "folders"
    """folders, or mlflow: the whole sweep as an experiment of an MLflow store of files at `out` (then mlruns, unless
    given), with the weights of the `top` first trials: docs/mlflow.md."""
    overwrite: bool = False
    """Replace an earlier export even where its files were changed or files were added to it."""
    ensemble: str = ""
    """per_class: of the first `top` trials the best one for each class, all in one folder, out/1, that predicts."""
    format: str = "table"
    """table or json (docs/json.md)."""

    def __post_init__(self) -> None:
        require_choice("format", self.format, FORMATS)
        require_choice("to", self.to, ("folders", "mlflow"))
        whole = self.to == "folders" or not self.epoch
        require(
            whole, "epoch", self.epoch, "to=mlflow takes every epoch's figures, and the best weights", "Leave it out"
        )
        require_in(self, "", top="[1, inf]", epoch="[0, inf]")
        require(bool(self.out), "out", self.out, "a folder is needed", "Use out=best")
        require(
            self.ensemble in ("", PER_CLASS),
            "ensemble",
            self.ensemble,
            "there is one kind, the best network for each class",
            f"Write ensemble={PER_CLASS}, or leave it out",
        )
        require(
            not (self.ensemble and self.epoch),
            "epoch",
            self.epoch,
            "an ensemble is of best epochs, at which alone thresholds can be chosen",
            "Leave it out",
        )
        require(
            not self.ensemble or self.to == "folders",
            "ensemble",
            self.ensemble,
            "to=mlflow takes a whole sweep",
            "Leave one of the two out",
        )
        require(
            not self.ensemble or self.top > 1,
            "top",
            self.top,
            "an ensemble is chosen among several trials",
            "Use top=10",
        )


def to_stderr(notice: str) -> None:
    print(f"!! {notice}", file=sys.stderr)


def export(settings: ExportSettings, *, tell: Tell = to_stderr) -> list[Path]:
    """Write out/1, out/2, … and return them. Each appears whole or not at all.

    tell: is given every notice (fewer trials than asked for, a checkpoint that is gone, a sweep still running).
    Raises InputError before anything is written: nothing to export, or a folder in the way that is not ours.
    """
    sweep = Sweep(settings.sweep, settings.results_dir)
    chosen = _choose(sweep, settings.top, tell)
    if settings.epoch:
        chosen = [(rank, _as_of(trial, settings.epoch)) for rank, trial in chosen]
    out = Path(settings.out).expanduser()
    _clear_up(out)
    if settings.ensemble:
        return [_export_ensemble(sweep, [trial for _, trial in chosen], out, overwrite=settings.overwrite, tell=tell)]
    for rank, _ in chosen:
        _check_target(out / str(rank), settings.overwrite)
    _tell_about(sweep, out, chosen, tell)
    with written(f"out={out}", "Choose another folder."):
        return [_export_trial(sweep, trial, rank, out, tell) for rank, trial in chosen]


def _choose(sweep: Sweep, top: int, tell: Tell) -> list[tuple[int, Trial]]:
    """(position, trial) of the first `top` rows that have a rank, that is, a finite score and no failure.

    What a confirmation has found comes before the search: its winner, or in a tie its default choice, then the other
    confirmed arms by their means, each once.
    """
    board = sweep.leaderboard()
    ranked, notices = in_confirmed_order(sweep, board[board["rank"].notna()])
    ranked = ranked.head(top)
    for notice in notices:
        tell(notice)
    if ranked.empty:
        raise InputError(
            f"sweep={sweep.name}: no trial has a finite score yet, there is nothing to export. "
            f"See python -m tune_app.summary sweep={sweep.folder}"
        )
    if len(ranked) < top:
        tell(f"only {len(ranked)} of the top={top} asked for: no other trial has a finite score")
    chosen = list(enumerate(map(sweep.trial, ranked["name"]), start=1))
    for rank, trial in chosen:
        if not all(section in trial.config for section in NEEDED):
            raise InputError(
                f"rank {rank}, {trial.name}: {trial.folder}/config.json is missing or damaged, so the configuration "
                f"cannot be exported completely. Restore the file, or export top={rank - 1}."
            )
    _tell_repeats(ranked, tell)
    return chosen


def _as_of(trial: Trial, epoch: int) -> Trial:
    """The trial with the scores of an epoch whose weights it has kept. InputError where it has not."""
    found = replace(trial, as_of=epoch)
    kept = sorted(trial.folder.glob(KEPT.replace("{:04d}", "*")))
    if trial.folder / KEPT.format(epoch) not in kept or not found.best:
        names = ", ".join(str(int(path.stem.removeprefix("epoch_"))) for path in kept) or "none"
        raise InputError(
            f"epoch={epoch}: {trial.name} has kept no weights of it, but of {names}. trainer.keep_checkpoint_every=10, "
            "given to run, keeps every tenth; leave epoch= out for the best one, or export fewer trials, top=1."
        )
    return found


def _tell_repeats(ranked: pd.DataFrame, tell: Tell) -> None:
    for arm, rows in ranked.assign(position=range(1, len(ranked) + 1)).groupby("arm", sort=False):
        if len(rows) > 1:
            tell(f"ranks {', '.join(map(str, rows['position']))} are runs of one configuration, {arm}")


def _check_target(target: Path, overwrite: bool) -> None:
    """InputError where `target` holds anything but an export of ours, or one that was changed since."""
    other = "Choose another folder with out=, or move it away."
    if target.parent.exists() and not target.parent.is_dir():
        raise InputError(f"out={target.parent}: is a file, a folder is needed. {other}")
    if not target.exists() and not target.is_symlink():
        return
    manifest = read_manifest(target)
    if target.is_symlink() or not target.is_dir() or (manifest.get("kind") != EXPORT and any(target.iterdir())):
        raise InputError(f"out: {target} exists and is no export, so it is not replaced. {other}")
    if manifest and not overwrite and not _is_unchanged(target, manifest):
        raise InputError(f"out: {target} is an export that was changed since. {other} overwrite=true replaces it.")


def _is_unchanged(target: Path, manifest: dict[str, Any]) -> bool:
    digests = manifest.get("sha256", {})
    files = {path.name: path for path in target.iterdir() if path.name != MANIFEST}
    return set(files) == set(digests) and all(file_sha256(path) == digests[name] for name, path in files.items())


def _tell_about(sweep: Sweep, out: Path, chosen: list[tuple[int, Trial]], tell: Tell) -> None:
    if sweep.phantom:
        tell(PHANTOM)
    if not sweep.validated:
        tell(NOT_VALIDATED)
    if sweep.status == "running":
        tell("the sweep is still running: a later export may choose others")
    if sweep.nearest:
        tell(sweep.nearest)
    unfinished = [trial.name for _, trial in chosen if trial.status in ("running", "interrupted", "waiting")]
    if unfinished and not chosen[0][1].as_of:
        tell(f"not trained to the end: {', '.join(unfinished)}; exported as of the best epoch so far")
    written = {str(rank) for rank, _ in chosen}
    stale = [p for p in out.glob("*") if p.name not in written and read_manifest(p).get("kind") == EXPORT]
    if stale:
        tell(f"left over from an earlier export, not of this one: {', '.join(sorted(map(str, stale)))}")


def _export_trial(sweep: Sweep, trial: Trial, rank: int, out: Path, tell: Tell) -> Path:
    return _built(out / str(rank), lambda folder: _write_files(sweep, trial, rank, folder, tell))


def _export_ensemble(sweep: Sweep, trials: Sequence[Trial], out: Path, *, overwrite: bool, tell: Tell) -> Path:
    """out/1 with the best network for every class. Raises InputError before anything is written."""
    target = out / "1"
    _check_target(target, overwrite)
    require(
        overwrite or not target.exists() or bool(read_manifest(target).get("ensemble")),
        "out",
        out,
        f"{target} is the export of one network",
        "Choose another folder, for example out=per_class, or overwrite=true",
    )
    ensemble = put_together(sweep, trials)
    _tell_about(sweep, out, [(1, trial) for trial in ensemble.members], tell)

    def write(folder: Path) -> None:
        configs = {trial.name: trial_config(trial) for trial in ensemble.members}
        ensemble.write(folder, configs)
        use = use_of(read_json(folder / ABOUT))
        notice = f"\n{PHANTOM}\n" if sweep.phantom else ""
        (folder / "README.md").write_text(ensemble.readme(use, notice), encoding="utf-8")
        digests = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
        manifest = {"kind": EXPORT, **ensemble.about(), **_made(sweep), "sha256": digests}
        (folder / MANIFEST).write_text(json.dumps(to_plain(manifest), indent=2) + "\n", encoding="utf-8")

    with written(f"out={out}", "Choose another folder."):
        return _built(target, write)


def _built(target: Path, write: Callable[[Path], None]) -> Path:
    """Write the folder beside its place, then rename it there."""
    building = _beside(target, "partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        write(building)
        _put_in_place(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _beside(target: Path, kind: str) -> Path:
    """A temporary folder of this process, partial or old."""
    return target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.{kind}")


def _clear_up(out: Path) -> None:
    """Remove what exports that were killed on this machine have left; one that they had moved aside comes back."""
    name = re.compile(rf"\.(?P<rank>\d+)\.{re.escape(socket.gethostname())}\.(?P<pid>\d+)\.(?P<kind>partial|old)")
    for folder in out.glob(".*"):
        found = name.fullmatch(folder.name)
        if found is None or Path("/proc", found["pid"]).exists():
            continue
        target = out / found["rank"]
        with suppress(OSError):  # of somebody else, or read-only
            if found["kind"] == "old" and not target.exists():
                folder.rename(target)
            else:
                shutil.rmtree(folder)


def _put_in_place(building: Path, target: Path) -> None:
    """Exchange the folders; the old one comes back should the second rename fail."""
    old = _beside(target, "old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        building.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_files(sweep: Sweep, trial: Trial, rank: int, folder: Path, tell: Tell) -> None:
    state, problem = best_state(trial)
    shift = inference_shift(trial, sweep.classes, state)
    source = {} if sweep.validated else _source_thresholds(sweep)
    thresholds = (
        operating_point(trial, sweep.classes, state)
        if sweep.validated
        else inherited_point(source, sweep.classes, shift, int(state.get("epoch") or trial.best["epoch"]))
    )
    mark = {} if sweep.validated else {"validated": False}
    whole = to_plain(trial_config(trial) | {"thresholds": thresholds} | mark)
    (folder / "config.yaml").write_text(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True), encoding="utf-8")
    (folder / "metrics.json").write_text(_metrics(sweep, trial), encoding="utf-8")
    if sweep.validated and trial.calibration.problem and thresholds["apply"] != LARGEST:
        tell(f"rank {rank}, {trial.name}: thresholds kept at 0.5, {trial.calibration.problem}")
    program_problem = problem
    if not problem:
        write_model(sweep, trial, state, folder / WEIGHTS, metadata(thresholds))
        program_problem = write_program(trial, state, thresholds, shift, folder)
        if program_problem:
            tell(f"rank {rank}, {trial.name}: exported without model.pt2, {program_problem}")
    else:
        tell(
            f"rank {rank}, {trial.name}: exported without its weights, {problem}. To train it again: "
            f"python -m tune_app.run trial={folder.parent / str(rank)}/config.yaml"
        )
    (folder / "README.md").write_text(
        _readme(sweep, trial, thresholds, source, program_problem, folder), encoding="utf-8"
    )
    digests = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    missing = {"model_missing": problem, "program_missing": program_problem}
    provenance = _provenance(sweep, trial, rank) | ({} if sweep.validated else _unvalidated(sweep, thresholds, source))
    manifest = {**provenance, **missing, "sha256": digests}
    (folder / MANIFEST).write_text(json.dumps(to_plain(manifest), indent=2) + "\n", encoding="utf-8")


def trial_config(trial: Trial) -> dict[str, Any]:
    """The complete configuration for `run trial=`: the trial's, without the folder it was run in."""
    head = {"name": trial.label, "family": trial.family, "preset": trial.preset or None, "seed": trial.seed or 0}
    body = {section: trial.config[section] for section in SECTIONS if section in trial.config}
    rest = {k: v for k, v in trial.config.items() if k not in ("run", *head, *body)}
    return head | body | rest


def _source_thresholds(sweep: Sweep) -> dict[str, Any]:
    """The section `thresholds` of the export that a final training started from; {} where it had none."""
    with suppress(OSError, ValueError, yaml.YAMLError):
        return dict((yaml.safe_load((sweep.folder / TRIAL).read_text(encoding="utf-8")) or {}).get("thresholds") or {})
    return {}


def _unvalidated(sweep: Sweep, thresholds: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says where nothing was left to validate on: no scores of its own.

    without_validation_crops: those of the same configuration trained without the validation crops.
    """
    before = {key: source.get(key) for key in ("epoch", sweep.metric, CALIBRATED)}
    return {
        "trained_on": "training and validation crops",
        sweep.metric: None,
        CALIBRATED: None,
        "best_epoch": thresholds["epoch"],
        "without_validation_crops": before,
    }


def use_of(about: Mapping[str, Any]) -> str:
    """`USE` for the network that a model.json tells of; of 2D and one channel where it does not say."""
    several = about.get("in_channels", 1) > 1
    images, slices_first = VOLUMES.get((about.get("spatial_dims", 2), several), ("em[:, None]", ""))
    lines = USE.replace("network(em[:, None])", f"network({images}){slices_first}")
    if about.get("per_image"):
        masks = 'masks = logits > torch.tensor(about["logit"]).view(-1, 1, 1)'
        begin, end = lines.index("    logits = "), lines.index(masks) + len(masks)
        lines = (
            lines[:begin]
            + "    logits = network(em[None, None])[0, :, 0, 0, 0]  # (classes,)\n"
            + 'label = about["classes"][int(logits.argmax())]  # of the whole volume; probabilities: logits.softmax(0)'
            + lines[end:]
        ).replace("classes, logit (where to cut), voxel_nm, stride", "classes, voxel_nm, patch")
    if fixed := about.get("fixed_size"):
        axes = ("slices, " if len(fixed) == 3 else "") + "height and width"
        lines = lines.replace("sides multiples of the stride", f"{axes} exactly {' × '.join(map(str, fixed))}")
    return lines.replace("uint8 (slices,", "uint8 (channels, slices,") if several else lines


def _readme(
    sweep: Sweep,
    trial: Trial,
    thresholds: Mapping[str, Any],
    source: Mapping[str, Any],
    program_missing: str,
    folder: Path,
) -> str:
    """What the folder is, for somebody who has nothing else."""
    epoch = thresholds["epoch"]
    if sweep.validated:
        worth = f"{sweep.metric} {trial.score(sweep.metric):.4f} on the validation crops"
        if trial.violation:
            worth += f". It misses the bounds {sweep.objective.bounds} (with {trial.bounded})"
    else:
        before = source.get(sweep.metric)
        worth = f"not validated.\n\n{NOT_VALIDATED}" + (
            f" Trained without them, this configuration had {in_words(sweep.metric)} {before:.4f}." if before else ""
        )
        worth = worth.removesuffix(".")
    use = f"There is no model.pt2: {program_missing}." if program_missing else use_of(read_json(folder / ABOUT))
    return README.format(
        title=trial.label,
        family=trial.family,
        sweep=sweep.name,
        trial=trial.name,
        epoch=epoch,
        worth=worth,
        classes=", ".join(sweep.classes),
        notice=f"\n{PHANTOM}\n" if sweep.phantom else "",
        use=use,
    )


def _metrics(sweep: Sweep, trial: Trial) -> str:
    metrics = {
        "sweep": sweep.name,
        "trial": trial.name,
        "status": trial.status,
        "classes": sweep.classes,
        "metric": sweep.metric,
        "validated": sweep.validated,
        "best_epoch": trial.best["epoch"],
        sweep.metric: trial.best[sweep.metric],
        "history": trial.history,
    }
    return json.dumps(to_plain(metrics), indent=1, allow_nan=False) + "\n"


def _provenance(sweep: Sweep, trial: Trial, rank: int) -> dict[str, Any]:
    confirmed = confirmation_of(sweep, trial)
    return {
        "kind": EXPORT,
        "rank": rank,
        "confirmation": confirmed and confirmed | {"best_epochs": confirmed_epochs(sweep, str(confirmed["name"]))},
        "trials_ranked": int(sweep.leaderboard()["rank"].notna().sum()),
        "sweep": sweep.name,
        "sweep_status": sweep.status,
        "trial": trial.name,
        "trial_status": trial.status,
        "family": trial.family,
        "preset": trial.preset or None,
        "params": trial.params,
        "seed": trial.seed,
        "metric": sweep.metric,
        "validated": sweep.validated,
        **({"bounds": sweep.objective.bounds, "missed": trial.bounded} if sweep.objective.bounds else {}),
        sweep.metric: trial.best[sweep.metric],
        CALIBRATED: trial.score(CALIBRATED),
        "best_epoch": trial.best["epoch"],
        "epochs": trial.epochs,
        "classes": sweep.classes,
        **_made(sweep),
    }


def _made(sweep: Sweep) -> dict[str, Any]:
    """With what, from what, and when."""
    told = ("space", "experiment", "data", "hardware", "git", "packages")
    exported = {"at": now(), "git": git_revision(), "packages": package_versions()}
    return {**{name: sweep.manifest.get(name) for name in told}, "exported": exported}


def confirmed_epochs(sweep: Sweep, arm: str) -> list[int]:
    """The best epochs of an arm's runs in the newest confirmation of a sweep."""
    runs = sweep.folder / str((read_confirmation(sweep.folder).get("source") or {}).get("runs") or CONFIRMATIONS)
    trials = Sweep(runs).trials if is_sweep(runs) else ()
    return [int(trial.best["epoch"]) for trial in trials if trial.label == arm and is_sound(trial)]


def export_and_print(settings: ExportSettings) -> Ended:
    """Export, and say where everything lies and what to type next."""
    if settings.to == "mlflow":
        sweep = Sweep(settings.sweep, settings.results_dir)
        out = Path(settings.out if settings.out != ExportSettings.out else "mlruns").expanduser()
        experiment, runs = export_to_mlflow(sweep, out, top=settings.top, overwrite=settings.overwrite)
        print(f"{out}   experiment {sweep.name}, {runs} runs, the sweep's own among them")
        print(f"open it: MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {shlex.quote(str(out))}")
        content = {"sweep": sweep.name, "out": out, "to": "mlflow", "exports": [], "notices": []}
        return Ended(lambda: content | {"experiment": experiment, "runs": runs})
    told: list[str] = []

    def tell(notice: str) -> None:
        told.append(notice)
        to_stderr(notice)

    folders = export(settings, tell=tell)
    exports = []
    for folder in folders:
        manifest = read_manifest(folder)
        if manifest.get("ensemble"):
            print(told_of_ensemble(folder, manifest))
            score = {"metric": ENSEMBLE_MEAN, "score": manifest[ENSEMBLE_MEAN], "calibrated": None, "epoch": None}
            whole = {"model": None, "program": None}
            exports.append({"folder": folder, "trial": ", ".join(manifest["members"]), **score, "lacks": whole})
            continue
        metric = manifest["metric"]
        own = None if metric.startswith("calibrated") else manifest[CALIBRATED]
        more = f"   {own:.4f} at thresholds of its own" if own is not None else ""
        epoch = manifest["best_epoch"]
        worth = f"{metric} {manifest[metric]:.4f}" if manifest["validated"] else "not validated, weights"
        print(f"{folder}   {manifest['trial']}   {worth} at epoch {epoch}{more}")
        score = {"metric": metric, "score": manifest[metric], "calibrated": manifest[CALIBRATED], "epoch": epoch}
        lacks = {name: manifest[f"{name}_missing"] or None for name in ("model", "program")}
        exports.append({"folder": folder, "trial": manifest["trial"], **score, "lacks": lacks})
    if not settings.ensemble:
        print(f"train one again: python -m tune_app.run trial={shlex.quote(f'{folders[0]}/config.yaml')}")
    about = {"sweep": manifest["sweep"], "out": folders[0].parent, "to": "folders", "experiment": None, "runs": None}
    return Ended(lambda: about | {"exports": exports, "notices": told})

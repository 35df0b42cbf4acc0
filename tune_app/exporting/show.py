"""python -m tune_app.show checkpoint=best/1: what a trained network is, what it is worth, and where it came from.

Nothing is loaded but names and shapes, and nothing is run. See docs/export.md.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd

from search_spaces import flatten
from trainables.calibration import CALIBRATED
from trainables.settings import PATH, require, require_choice
from tune_app.errors import InputError
from tune_app.exporting.ensemble import ENSEMBLE_MEAN
from tune_app.exporting.model_file import ABOUT, PROGRAM, WEIGHTS, best_state, tensors_of
from tune_app.exporting.operating_point import operating_point
from tune_app.reporting.compare_runs import says_how_good
from tune_app.results.manifest import file_sha256, read_manifest
from tune_app.results.run import Run, find_run
from tune_app.results.summary import NOT_VALIDATED, PHANTOM
from tune_app.results.tables import counted, in_words, records, sentences, text_pages
from tune_app.results.trial import is_finite, read_json
from tune_app.settings.document import FORMATS, Ended
from tune_app.settings.terminal import columns, drawing, plain

NOT_OF_ALL = dict.fromkeys(("logit", "calibrated"))
"""Of a class's threshold, what an ensemble does not say."""
RUNNING = ("running_mean", "running_var", "num_batches_tracked")
"""Tensors of a batch norm that are counted, not learnt."""


@dataclass(kw_only=True)
class ShowSettings:
    """What `python -m tune_app.show` takes."""

    checkpoint: str = field(default="best/1", metadata=PATH)
    """Folder of an export, or a trial: SWEEP/TRIAL with its name or number, or its folder."""
    results_dir: str = field(default="", metadata=PATH)
    """Folder of the sweeps; empty: $TUNE_APP_RESULTS, the user's setting, or results."""
    tensors: bool = False
    """Every tensor with its shape, instead of how many parameters each part has."""
    format: str = "table"
    """table or json, which has the tensors in any case."""

    def __post_init__(self) -> None:
        require(bool(self.checkpoint), "checkpoint", "''", "an export or a trial is needed", "Use checkpoint=best/1")
        require_choice("format", self.format, FORMATS)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A network as `show` tells of it. about: what programs are told of it first; facts: (name, value) pairs; tensors:
    name, shape, type, parameters."""

    about: Mapping[str, Any]
    name: str
    notices: list[str]
    facts: list[tuple[str, str]]
    thresholds: pd.DataFrame
    figures: pd.DataFrame
    parts: pd.DataFrame
    tensors: pd.DataFrame
    settings: Mapping[str, Any]

    def text(self, width: int | None, *, every_tensor: bool) -> str:
        """What the terminal shows."""
        room = max(len(name) for name, _ in self.facts) + 2
        told = [sentences(plain(f"{name:<{room}}{value}"), width, " " * room) for name, value in self.facts]
        titled = [
            ("Thresholds, chosen on the validation crops", self.thresholds, "class"),
            ("Figures of the epoch whose weights these are", self.figures, "figure"),
            ("Tensors", self.tensors, "name") if every_tensor else ("Parts of the network", self.parts, "part"),
        ]
        blocks = [plain(self.name), *(sentences(plain(f"!! {one}"), width) for one in self.notices), "\n".join(told)]
        blocks += [f"{title}\n{text_pages(frame, width, (), (key,))}" for title, frame, key in titled if len(frame)]
        return "\n\n".join(blocks)

    def document(self) -> dict[str, Any]:
        """The same, and all settings; numbers exact, null where there is none."""
        return {
            **self.about,
            "parameters": int(self.tensors["parameters"].sum()) if len(self.tensors) else None,
            "notices": self.notices,
            "facts": dict(self.facts),
            "thresholds": [
                dict.fromkeys(("threshold", "logit", "calibrated")) | row for row in records(self.thresholds)
            ],
            "figures": records(self.figures),
            "tensors": records(self.tensors),
            "settings": self.settings,
        }


def show(settings: ShowSettings) -> Shown:
    """Read what there is to say. Raises InputError."""
    folder = Path(settings.checkpoint).expanduser()
    if (manifest := read_manifest(folder)).get("ensemble"):
        return _ensemble(folder, manifest)
    run = find_run(settings.checkpoint, settings.results_dir, key="checkpoint")
    if run is None:
        raise InputError(
            f"checkpoint={settings.checkpoint}: is neither the folder of an export nor a trial. Make an export: "
            "python -m tune_app.export sweep=latest top=1 out=best, or give checkpoint=SWEEP/TRIAL"
        )
    state, problem = best_state(run.trial) if run.kind == "trial" else ({}, "")
    tensors = _tensors_in(run.folder) if run.kind == "export" else _tensors(tensors_of(state) if state else {})
    section = run.thresholds or (operating_point(run.trial, run.classes, state) if run.trial.best else {})
    notices = [PHANTOM] if run.data.get("phantom") else []
    notices += [NOT_VALIDATED] if run.about.get("validated") is False else []
    notices += [f"it misses the bounds of its sweep, with {run.trial.bounded}"] if run.trial.bounded else []
    notices += [f"no weights: {problem}"] if problem else []
    notices += _damage_of(run.folder, run.about if run.kind == "export" else {})
    reasons = {own.get("kept_at_half") for own in (section.get("classes") or {}).values()}
    alike = reasons.pop() if len(reasons) == 1 else None  # of all classes, such as that there are none to choose
    trial = run.trial
    about = {
        "name": run.name,
        "kind": run.kind,
        "folder": run.folder,
        "trial": trial.name,
        "metric": trial.metric,
        "score": trial.score(trial.metric) if trial.best else None,
        "epoch": trial.best.get("epoch"),
        "classes": list(run.classes),
    }
    return Shown(
        about=about,
        name=f"{run.name}   {run.trial.name}" if run.kind == "export" else run.name,
        notices=notices,
        facts=_facts(run, tensors) + ([("thresholds", alike)] if alike else []),
        thresholds=pd.DataFrame() if alike else _thresholds(section),
        figures=_figures(run),
        parts=_parts(tensors),
        tensors=tensors,
        settings=run.trial.config,
    )


def _ensemble(folder: Path, manifest: Mapping[str, Any]) -> Shown:
    """Of an export of several networks: which of them gives which class, and what it is worth."""
    about, winners = read_json(folder / ABOUT), manifest.get("winners") or {}
    tensors = _tensors_in(folder)
    size = f"{int(tensors['parameters'].sum()):,}".replace(",", " ")
    axes = "H, W" if about.get("spatial_dims", 2) == 2 else "D, H, W"
    sides = about.get("fixed_size") or f"sides multiples of {about.get('stride')}"
    members = manifest.get("members") or []
    facts = [
        ("sweep", str(manifest.get("sweep"))),
        ("network", f"{counted(len(members), 'network')}, {size} parameters: {', '.join(members)}"),
        ("takes", f"uint8 (N, {about.get('in_channels', 1)}, {axes}), {sides}"),
        ("gives", f"logits float32 (N, {len(winners)}, {axes}): {', '.join(winners)}"),
        (
            "score",
            f"mean Dice {_short(manifest.get(ENSEMBLE_MEAN))} on crops that did not choose; {manifest['measured']}",
        ),
    ]
    own = {
        "name": str(folder),
        "kind": "export",
        "folder": folder,
        "trial": ", ".join(members),
        "metric": ENSEMBLE_MEAN,
        "score": manifest.get(ENSEMBLE_MEAN),
        "epoch": None,
        "classes": list(winners),
    }
    return Shown(
        about=own,
        name=f"{folder}   {manifest['ensemble']}",
        notices=[*([PHANTOM] if (manifest.get("data") or {}).get("phantom") else []), *_damage_of(folder, manifest)],
        facts=facts,
        thresholds=pd.DataFrame(
            [
                {"class": name, "trial": own["trial"], "threshold": own["probability"], "dice": own["dice"]}
                | ({"why": own["why"]} if own["why"] else {})
                for name, own in winners.items()
            ]
        ),
        figures=pd.DataFrame(),
        parts=_parts(tensors),
        tensors=tensors,
        settings={},
    )


def _facts(run: Run, tensors: pd.DataFrame) -> list[tuple[str, str]]:
    trial, config = run.trial, run.trial.config
    data, model, trainer = (config.get(name) or {} for name in ("data", "model", "trainer"))
    about = read_json(run.folder / ABOUT) if run.kind == "export" else {}
    arm = f"{trial.family}{f', preset {trial.preset}' if trial.preset else ''}, seed {trial.seed}"
    loss = {"name": trial.loss.get("name"), **(trial.loss.get("params") or {})}
    experiment = run.about.get("experiment")
    where = f"{run.about.get('sweep')}{f', experiment {experiment}' if experiment else ''}"
    patch = " × ".join(map(str, data.get("patch") or ()))
    size = int(tensors["parameters"].sum()) if len(tensors) else 0
    facts = [
        ("sweep", f"{where}; {trial.status}, {counted(trial.epochs, 'epoch')} of {trainer.get('epochs')}"),
        ("arm", arm),
        ("loss", _words(loss)),
        ("network", f"{_words(model)}{f'; {size:,} parameters'.replace(',', ' ') if size else ''}"),
    ]
    if about:
        sides = about.get("fixed_size") or f"sides multiples of {about['stride']}"
        axes = "H, W" if about.get("spatial_dims", 2) == 2 else "D, H, W"
        facts.append(("takes", f"uint8 (N, {about.get('in_channels', 1)}, {axes}), {sides}"))
        axes = "1, 1, 1" if about.get("per_image") else axes
        facts.append(("gives", f"logits float32 (N, {len(run.classes)}, {axes}): {', '.join(run.classes)}"))
    else:
        facts.append(("classes", ", ".join(run.classes)))
    told = [f"{data.get('name')}, {data.get('root') or 'generated, in the cache'}", f"patches of {patch}"]
    told += [f"voxels of {' × '.join(f'{v:g}' for v in data['voxel_nm'])} nm"] if data.get("voxel_nm") else []
    if fingerprint := run.data.get("fingerprint"):
        told.append(f"fingerprint {fingerprint[:12]}")
    if crops := len(trial.validation(("crops",)).get("crops", ())):
        told.append(f"validated on {counted(crops, 'crop')}")
    facts.append(("data", "; ".join(told)))
    if trial.best:
        score = f"{in_words(trial.metric)} {trial.score(trial.metric):.4f} at epoch {trial.best['epoch']}"
        bounds = f"; bounds {trial.objective.bounds}" if trial.objective.bounds else ""
        facts.append(("score", f"{score}{bounds}"))
    packages = run.about.get("packages") or {}
    facts.append(
        ("made with", _words({name: packages[name] for name in ("python", "torch", "tune-app") if name in packages}))
    )
    if (run.folder / "config.yaml").is_file():
        file = shlex.quote(str(run.folder / "config.yaml"))
        facts.append(("again", f"python -m tune_app.run trial={file}"))
    return facts


def _words(section: Mapping[str, Any]) -> str:
    """seesaw p=0.8 q=2.0: name first, then what is set."""
    flat = flatten(section)
    name = flat.pop("name", "")
    set_to = (f"{key.removeprefix('options.')}={_short(value)}" for key, value in flat.items())
    return " ".join([*([str(name)] if name else []), *set_to])


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace(", ", ",")


def _thresholds(section: Mapping[str, Any]) -> pd.DataFrame:
    rows = [
        {
            "class": name,
            "threshold": own.get("probability"),
            "logit": own.get("logit"),
            "dice": own.get("dice"),
            "calibrated": own.get("calibrated_dice"),
            **({"why": own["kept_at_half"]} if own.get("kept_at_half") else {}),
        }
        for name, own in (section.get("classes") or {}).items()
    ]
    return pd.DataFrame(rows)


def _figures(run: Run) -> pd.DataFrame:
    trial = run.trial
    names = dict.fromkeys([*trial.objective.figures, CALIBRATED, *filter(says_how_good, trial.best)])
    rows = [(name, trial.score(name)) for name in names if is_finite(trial.score(name))] if trial.best else []
    return pd.DataFrame(rows, columns=["figure", "value"])


def _tensors_in(folder: Path) -> pd.DataFrame:
    """By the header of an export's file: no weight is read."""
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    if not path.is_file():
        return _tensors({})
    try:
        with safe_open(path, framework="pt") as file:
            slices = [(name, file.get_slice(name)) for name in sorted(file.offset_keys())]
            rows = [(name, list(one.get_shape()), one.get_dtype()) for name, one in slices]
    except (OSError, SafetensorError) as error:
        raise InputError(f"checkpoint={folder}: {WEIGHTS} cannot be read ({error}). Export it again") from None
    return _frame(rows)


def _tensors(weights: Mapping[str, Any]) -> pd.DataFrame:
    return _frame([(name, list(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in weights.items()])


def _frame(rows: Sequence[tuple[str, list[int], str]]) -> pd.DataFrame:
    found = [
        {
            "name": name,
            "shape": " × ".join(map(str, shape)) or "1",
            "type": kind,
            "parameters": 0 if name.endswith(RUNNING) else prod(shape),
        }
        for name, shape, kind in rows
    ]
    return pd.DataFrame(found, columns=["name", "shape", "type", "parameters"])


def _parts(tensors: pd.DataFrame) -> pd.DataFrame:
    """Parameters of each part: by the first word of the names in which they differ."""
    names = [name.split(".") for name in tensors["name"]]
    depth = 1
    while names and len({tuple(name[:depth]) for name in names}) == 1 and depth < min(map(len, names)):
        depth += 1
    parts = tensors.assign(part=[".".join(name[:depth]) for name in names])
    found = parts.groupby("part", sort=False).agg(tensors=("name", "size"), parameters=("parameters", "sum"))
    total = max(1, int(found["parameters"].sum()))
    return found.assign(share=[f"{100 * n / total:.1f} %" for n in found["parameters"]]).reset_index()


def _damage_of(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Files of an export that are gone or are no longer as they were written."""
    written = manifest.get("sha256") or {}
    missing = [name for name in written if not (folder / name).is_file()]
    changed = [n for n, digest in written.items() if n not in missing and file_sha256(folder / n) != digest]
    told = [f"missing: {', '.join(missing)}"] if missing else []
    if changed:
        told.append(f"changed since it was exported: {', '.join(changed)}")
    for key, name in (("model_missing", WEIGHTS), ("program_missing", PROGRAM)):
        told += [f"exported without {name}: {manifest[key]}"] if manifest.get(key) else []
    return told


def show_and_print(settings: ShowSettings) -> Ended:
    """Print what there is to say."""
    found = show(settings)
    if settings.format != "json":
        print(found.text(columns(), every_tensor=settings.tensors), file=drawing(sys.stdout))
    return Ended(found.document)

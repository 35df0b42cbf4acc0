"""Write docs/settings.md from the settings themselves:  python docs/make_settings.py

Every field's meaning is the docstring below it in the dataclass; nothing is explained twice.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

import trainables.models
from trainables.settings import DataSettings
from tune_app.confirmation.settings import ConfirmSettings
from tune_app.data import DataVerbSettings
from tune_app.exporting.export import ExportSettings
from tune_app.exporting.predict import DataFolder, PredictSettings
from tune_app.exporting.show import ShowSettings
from tune_app.frequencies import FrequenciesSettings
from tune_app.plan import PlanSettings
from tune_app.report import ReportSettings
from tune_app.reporting.compare import CompareSettings
from tune_app.results.summary import SummarySettings
from tune_app.settings.command_line import CONF, compose
from tune_app.settings.schema import RunSettings, Settings
from tune_app.settings.user import ENVIRONMENT
from tune_app.sweep.housekeeping import SweepsSettings

MODELS = Path(trainables.models.__file__).parents[1] / "conf" / "model"
PAGE = Path(__file__).with_name("settings.md")
OTHER_VERBS = {
    "summary": SummarySettings,
    "confirm": ConfirmSettings,
    "report": ReportSettings,
    "plan": PlanSettings,
    "show": ShowSettings,
    "compare": CompareSettings,
    "export": ExportSettings,
    "predict": PredictSettings,
    "frequencies": FrequenciesSettings,
    "data": DataVerbSettings,
    "sweeps": SweepsSettings,
}
GROUPS = ("data", "model", "trainer", "hardware", "search", "cluster", "experiment")
INTRO = """# Settings

<!-- Written by docs/make_settings.py from the dataclasses. Change the docstring there, then: make docs -->

Any setting is given as `key=value`. Where it comes from, weakest first: the defaults below, the choices in
`tune_app/settings/conf` and `trainables/conf/model` (`data=cellmap`, `trainer=published`, `model=unet_2d`, …), the
user's settings file and environment, the command line. `model=` wins over `data=`, `trainer=` and `hardware=`.
`python -m tune_app.run --cfg job` prints the settings of a run without running it.

A list is written without spaces, `data.patch=[1,64,64]`; nothing is written `resources.gpus_per_trial=null`.
A path is written as in any shell: `data.root=~/data`, `"data.root=/data/Zürich (v2), copy"`.
`space.p=0.8` fixes a parameter of the search, `space.p=[0.5,1.2]` narrows it.
"""

TAKES_ALL = "Takes all settings of `run`, too, but `resume=` and `extend=`.\n"
TAKES_PLACE = (
    "Takes the `resources.…`, `cluster.…`, `checkpoints.…` and `notify.…` settings of `run`, too; also `data.root`, …\n"
)
TAKES_DATA = "Takes `data=` and the `data.…` settings of `run`, too.\n"


def settings_page() -> str:
    """The whole page as Markdown."""
    defaults = default_settings()
    parts = [INTRO, "## `python -m tune_app.run`\n", *sections(RunSettings, defaults), choices(), environment()]
    for verb, schema in OTHER_VERBS.items():
        own = docstrings(schema)
        fields = [field for field in dataclasses.fields(schema) if own.get(field.name) and not section_type(field)]
        rows = [row(field.name, plain(field), own[field.name]) for field in fields]
        rows += [
            row(f"{outer.name}.{inner.name}", plain(inner), text)
            for outer in dataclasses.fields(schema)
            if (section := section_type(outer)) is DataFolder
            for inner, text in zip(dataclasses.fields(section), docstrings(section).values())
        ]
        parts += [f"## `python -m tune_app.{verb}`\n", also_takes(schema), table(rows)]
    return "\n".join(part for part in parts if part)


def also_takes(schema: type) -> str:
    """What a verb shares with `run`."""
    if issubclass(schema, Settings):
        return TAKES_ALL
    if schema is ConfirmSettings:
        return TAKES_PLACE
    return TAKES_DATA if any(section_type(field) is DataSettings for field in dataclasses.fields(schema)) else ""


def default_settings() -> dict[str, Any]:
    """What `run` without any word uses, on a machine where the user has set nothing."""
    nothing_set = dict.fromkeys(ENVIRONMENT.values(), "") | {"TUNE_APP_SETTINGS": os.devnull}
    with mock.patch.dict(os.environ, nothing_set):
        composed = compose("run", RunSettings, [])
    assert composed is not None
    return composed.settings.as_dict()


def sections(schema: type, defaults: Mapping[str, Any]) -> Iterator[str]:
    """A table of the plain settings, then one per nested section."""
    nested = {field.name: section_type(field) for field in dataclasses.fields(schema)}
    texts = {name: text for base in reversed(schema.__mro__[:-1]) for name, text in docstrings(base).items()}
    yield table([row(name, defaults[name], texts[name]) for name, inner in nested.items() if inner is None])
    for name, inner in nested.items():
        if inner is not None:
            yield f"### {name}\n"
            yield f"{first_line(inner)}\n"
            inner_texts = docstrings(inner)
            yield table([row(f"{name}.{key}", defaults[name][key], inner_texts.get(key, "")) for key in defaults[name]])


def section_type(field: dataclasses.Field[Any]) -> type | None:
    """The dataclass of a nested section, or None for a plain setting."""
    factory = field.default_factory
    return factory if isinstance(factory, type) and dataclasses.is_dataclass(factory) else None


def first_line(schema: type) -> str:
    return (schema.__doc__ or "").split("\n\n")[0].strip()


def docstrings(schema: type) -> dict[str, str]:
    """{field: the string below it} of a dataclass; "" where there is none."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts: dict[str, str] = {}
    for node, below in zip(tree.body, [*tree.body[1:], None]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            value = below.value if isinstance(below, ast.Expr) else None
            text = value.value if isinstance(value, ast.Constant) else ""
            texts[node.target.id] = " ".join(str(text).split())
    return texts


def plain(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def row(name: str, default: Any, text: str) -> tuple[str, str, str]:
    return f"`{name}`", f"`{written(default)}`", text.replace("|", "\\|")


def written(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith("${user:"):
        return f"<{value[7:].split(',')[0]} of the user>"
    if isinstance(value, list):
        return "[" + ",".join(written(item) for item in value) + "]"
    return str(value) if value != "" else "''"


def table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|", *(f"| {' | '.join(cells)} |" for cells in rows)]
    return "\n".join(lines) + "\n"


def choices() -> str:
    """The files of the groups, with what each sets."""
    lines = ["## Choices\n", "Each sets several of the settings above at once.\n"]
    for group in GROUPS:
        for path in sorted((MODELS if group == "model" else CONF / group).glob("*.yaml")):
            lines += [f"`{group}={path.stem}`{about(path)}\n", f"    {settings_of(path)}\n"]
    return "\n".join(lines)


def about(path: Path) -> str:
    comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(line for line in comments if not line.startswith("@package"))
    return f"  {text}" if text else ""


def settings_of(path: Path) -> str:
    values = yaml.safe_load(path.read_text())
    package = "" if "@package _global_" in path.read_text() else f"{path.parent.name}."
    return " ".join(f"{key}={written(value)}" for key, value in flattened(values, package)) or "nothing"


def flattened(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key == "defaults":
            yield from ((name.removeprefix("override /"), choice) for entry in value for name, choice in entry.items())
        elif isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def environment() -> str:
    """What can be set once."""
    rows = [f"| `{variable}` | `{key}` |" for key, variable in ENVIRONMENT.items()]
    return "\n".join(
        [
            "## Set once\n",
            "In the environment, or in `~/.config/tune_app/settings.yaml` (another file: `TUNE_APP_SETTINGS`). The",
            "environment wins over the file, the command line over both.\n",
            "| environment | key in the file |",
            "|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
    print(f"wrote {PAGE}")

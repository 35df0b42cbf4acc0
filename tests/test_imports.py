"""Who imports whom, and that importing does nothing."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tune_app", "search_spaces", "trainables", "cluster")
LAYERS = (
    "tune_app.errors",
    "trainables cluster tune_app.evidence",
    "search_spaces",
    "tune_app.settings",
    "tune_app.results",
    "tune_app.planning tune_app.ray_adapters tune_app.search",
    "tune_app.sweep",
    "tune_app.reporting tune_app.confirmation tune_app.exporting",
    "tune_app",
)
"""Rooms from the ground up: a file takes from its own layer and from those below. The verbs lie flat in tune_app."""
FOUNDATIONS = ("trainables", "cluster", "tune_app.evidence")
"""These do not see each other."""
RAY = (
    "search_spaces._tune",
    "tune_app.ray_adapters",
    "tune_app.sweep",
    "tune_app.search",
    "trainables.trial",
    "trainables.workers",
    "cluster",
)
"""Where ray may be imported."""


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_in(text: str, path: Path) -> Iterator[str]:
    """Dotted names of everything a source file imports, wherever in it; `from a import b` gives a.b."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            yield from (f"{base if node.level else node.module}.{alias.name}" for alias in node.names)


def under(name: str, rooms: str) -> bool:
    return any(f"{name}.".startswith(f"{room}.") for room in rooms.split())


def layer_of(name: str) -> int:
    """Place of a module's room in LAYERS."""
    return next(place for place, rooms in enumerate(LAYERS) if under(name, rooms))


def wrong_arrows(text: str, path: Path) -> list[str]:
    """What a file imports from a room above its own, of another foundation, of a verb, and ray where it may not."""
    own = module_name(path)
    wrong = []
    for name in imports_in(text, path):
        if name.split(".")[0] == "ray":
            allowed = under(own, " ".join(RAY))
        elif name.split(".")[0] not in PACKAGES:
            allowed = True
        elif layer_of(own) == len(LAYERS) - 1:
            allowed = layer_of(name) < len(LAYERS) - 1
        elif own.startswith("search_spaces"):
            allowed = under(name, "search_spaces trainables.losses trainables.settings")
        elif room := next((room for room in FOUNDATIONS if under(own, room)), ""):
            allowed = under(name, room) or (name.startswith("tune_app.errors") and room == "tune_app.evidence")
        else:
            allowed = layer_of(name) <= layer_of(own)
        if not allowed:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", sources(), ids=lambda path: module_name(path))
def test_imports_go_downwards(path: Path) -> None:
    assert wrong_arrows(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("file", "line", "wrong"),
    [
        ("trainables/engine.py", "import tune_app", ["tune_app"]),
        ("trainables/engine.py", "def f():\n    from search_spaces import get_family", ["search_spaces.get_family"]),
        ("trainables/engine.py", "import ray", ["ray"]),
        ("search_spaces/seesaw.py", "from trainables.engine import Engine", ["trainables.engine.Engine"]),
        ("search_spaces/seesaw.py", "from trainables import engine", ["trainables.engine"]),
        ("search_spaces/seesaw.py", "from trainables.losses import build", []),
        ("cluster/slurm.py", "import trainables.settings", ["trainables.settings"]),
        ("trainables/data/packed.py", "from ..losses import build", []),
        ("tune_app/run.py", "import cluster, search_spaces, trainables.engine", []),
        ("tune_app/run.py", "from tune_app.export import main", ["tune_app.export.main"]),
        ("tune_app/results/sweep.py", "from tune_app.sweep.folder import locked", ["tune_app.sweep.folder.locked"]),
        ("tune_app/sweep/tuner.py", "from tune_app.results.sweep import Sweep\nimport ray", []),
        ("tune_app/evidence/noise.py", "import trainables.engine", ["trainables.engine"]),
        ("tune_app/reporting/page.py", "from ray import tune", ["ray.tune"]),
    ],
)
def test_the_check_tells_a_wrong_arrow(file: str, line: str, wrong: list[str]) -> None:
    assert wrong_arrows(line, ROOT / file) == wrong


def imported_files() -> dict[str, set[str]]:
    """{module: those of ours that it imports anywhere in it, under TYPE_CHECKING too}."""
    modules = {module_name(path): path for path in sources()}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        taken = imports_in(path.read_text(), path)
        found[name] = {one if one in modules else one.rpartition(".")[0] for one in taken} & set(modules) - {name}
    return found


def a_circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring, the first one found; [] where there is none."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if ring := visit(other, [*way, name]):
                return ring
        done.add(name)
        return []

    return next((ring for name in sorted(graph) if (ring := visit(name, []))), [])


def test_no_module_imports_itself_by_a_detour() -> None:
    assert a_circle(imported_files()) == []


def test_the_check_tells_a_circle() -> None:
    assert a_circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d"]
    assert a_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_has_the_name_of_one_of_pythons() -> None:
    assert {path.stem for path in sources()} & (sys.stdlib_module_names - {"__init__", "__main__"}) == set()


@pytest.mark.parametrize("path", sorted((ROOT / "trainables").rglob("*.py")), ids=lambda path: module_name(path))
def test_trainables_know_no_sweep(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports_in(path.read_text(), path)}
    assert roots.isdisjoint({"hydra", "omegaconf", "optuna", "pandas"})


def test_everything_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[\[><=!~ ]", line)[0].lower().replace("_", "-") for line in project["dependencies"]}
    providers = importlib.metadata.packages_distributions()
    roots = {name.split(".")[0] for path in sources() for name in imports_in(path.read_text(), path)}
    outside = roots - set(PACKAGES) - set(sys.stdlib_module_names) - {"__future__"}
    undeclared = {n for n in outside if not {d.lower().replace("_", "-") for d in providers.get(n, [n])} & declared}
    assert undeclared <= {"mlflow", "transformers", "wandb"}, "those of an extra"


def run_python(code: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(cwd)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "hydra", "omegaconf", "optuna", "pandas", "tune_app", "search_spaces"):
            raise ModuleNotFoundError(name + " is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""


def test_the_engine_needs_no_ray_no_hydra_and_no_optuna(tmp_path: Path) -> None:
    code = BLOCKED + "import trainables.engine\nprint(trainables.engine.Engine.__name__)"
    assert run_python(code, tmp_path).strip() == "Engine"


IMPORT_ALL = """
import importlib, logging, signal, sys
import numpy, ray, torch
def state():
    return (torch.get_num_threads(), torch.get_default_dtype(), torch.initial_seed(), torch.cuda.is_initialized(),
            ray.is_initialized(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM),
            list(logging.getLogger().handlers), numpy.geterr())
before = state()
for name in {names!r}:
    importlib.import_module(name)
after = state()
assert before == after, (before, after)
print("same")
"""


def test_importing_every_module_does_nothing(tmp_path: Path) -> None:
    names = [module_name(path) for path in sources()]
    assert run_python(IMPORT_ALL.format(names=names), tmp_path).strip() == "same"
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_does_not_import_ray(tmp_path: Path) -> None:
    """Ray reads its environment when it is imported, and --help should not wait for it."""
    assert run_python("import sys, tune_app.run; print('ray' in sys.modules)", tmp_path).strip() == "False"

"""The repository as a whole: what lies in it, and that what its pages say is so."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from search_spaces import all_presets, families, together_in_all
from trainables.settings import network_names
from tune_app.__main__ import VERBS
from tune_app.settings import command_line
from tune_app.settings.command_line import compose
from tune_app.settings.schema import RunSettings

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "README.md",
    "benchmarks",
    "cluster",
    "docs",
    "pyproject.toml",
    "search_spaces",
    "tests",
    "trainables",
    "tune_app",
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE_SETTINGS = load(ROOT / "docs" / "make_settings.py")
SCHEMAS: dict[str, type] = {"run": RunSettings, **MAKE_SETTINGS.OTHER_VERBS}


def tracked() -> list[str]:
    result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("needs a git checkout")
    return [name for name in result.stdout.split("\0") if name]


def test_nothing_lies_at_the_top_that_does_not_belong_there() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP_LEVEL


def test_no_large_or_generated_file_is_tracked() -> None:
    present = [ROOT / name for name in tracked() if (ROOT / name).is_file()]
    assert [path for path in present if path.stat().st_size > 1_000_000] == []
    assert [path for path in present if path.suffix in (".pyc", ".pt", ".npz", ".log")] == []


OF_ONE_TASK = "mean_dice"
"""A figure that only the task which gives it may name: everybody else reads the objective."""


def test_no_program_names_the_figure_of_one_task() -> None:
    rooms = ("tune_app/", "search_spaces/", "trainables/", "cluster/")
    programs = [
        ROOT / name for name in tracked() if name.startswith(rooms) and name != "trainables/tasks/multilabel.py"
    ]
    programs += [ROOT / name for name in tracked() if name.startswith("benchmarks/") and name.endswith(".py")]
    named = [path for path in programs if path.is_file() and OF_ONE_TASK in path.read_text(encoding="utf-8")]
    assert named == [], "read it from Sweep.objective, Prepared.objective or the task"


def test_every_dependency_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))
    makefile = re.search(r"^DEFAULT_TORCH := torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert makefile
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name, ranges = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", line).groups()
        version = makefile[1] if name == "torch" else pins[name.lower().replace("_", "-")]
        assert all(holds(version, bound) for bound in ranges.split(",") if bound), f"{line}, pinned {version}"


def holds(version: str, bound: str) -> bool:
    """Whether `version` meets one bound, >=X or <X."""
    found = [int(part) for part in re.findall(r"\d+", version)]
    limit = [int(part) for part in re.findall(r"\d+", bound)]
    return found >= limit if bound.startswith(">=") else found < limit


def test_every_family_and_verb_is_in_the_readme() -> None:
    commands = (ROOT / "docs" / "commands.md").read_text()
    assert [name for name in together_in_all() if name not in README] == []
    assert [name for name in families() if f"family={name}`" not in commands] == []
    assert [verb for verb in VERBS if f"tune_app.{verb}" not in README and f"`{verb} " not in README] == []


def choices(group: str) -> set[str]:
    return {path.stem for path in (ROOT / "tune_app" / "settings" / "conf" / group).glob("*.yaml")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_choice_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    known = {
        group.name: choices(group.name)
        for group in (ROOT / "tune_app" / "settings" / "conf").iterdir()
        if group.is_dir()
    }
    known["model"] = set(network_names())
    known |= {"family": {*families(), "all", "compare", "logarithmic"}, "preset": set(all_presets())}
    for key, value in re.findall(
        r"(?<![\w.])(family|preset|data|model|trainer|hardware|search|experiment)=([\w.]+)", text
    ):
        assert value in known[key] | {"NAME"}, f"{key}={value}"


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """(page, verb, words) of every complete command in the pages."""
    for page in PAGES:
        for verb, rest in re.findall(r"python -m tune_app\.(\w+)([^`\n#│|]*)", page.read_text()):
            rest = rest.partition('"')[0] if page.name == "json.md" else rest  # there a command is a text
            words = shlex.split(re.split(r"   |, ", rest)[0].rstrip(" .,;:)"))
            if verb in SCHEMAS and not any(word in ("…", "--help") or "…" in word for word in words):
                yield page.name, verb, words


@pytest.mark.parametrize(
    ("verb", "words"),
    sorted(
        {
            (verb, tuple(words))
            for _, verb, words in commands()
            if not {"family=logarithmic", "task.name=worst_class"} & set(words)
        }
    ),
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_every_command_in_the_pages_is_understood(
    verb: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNE_APP_SETTINGS", "/dev/null")
    composed = compose(verb, SCHEMAS[verb], list(words))
    assert composed is None or isinstance(composed.settings, SCHEMAS[verb])


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_every_setting_that_holds_a_path_says_so(schema: type) -> None:
    """A word for one is taken as a shell gives it, whatever characters are in it."""
    words = "a|b|checkpoint|crop|volume|manifest|root|out|sweep|resume|extend|trial|final|reference|frequencies"
    words += "|command|prior"
    names = re.compile(rf"(.*\.)?({words}|\w+_(dir|file|path|root))")
    found = {key for key in command_line._keys(OmegaConf.structured(schema)) if names.fullmatch(key)}
    assert found == set(command_line.path_keys(schema))


def test_files_named_in_the_tree_exist() -> None:
    tree = re.search(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert tree
    folder, missing = "", []
    for line in tree[1].splitlines():
        indent, names = re.fullmatch(r"( *)([^\s,]+(?:, [^\s,]+)*)?.*", line).groups()
        if names is None:
            continue
        for name in names.split(", "):
            folder = name if not indent and name.endswith("/") else folder if indent else ""
            missing += [] if (ROOT / (folder if indent else "") / name).exists() else [folder + name]
    assert missing == []


def test_every_link_and_anchor_leads_somewhere(tmp_path: Path) -> None:
    check = load(ROOT / "docs" / "check_links.py")
    assert list(check.broken_links(ROOT)) == []
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("# One `name=1`, twice\n\n```\n# none\n```\n## One `name=1`, twice\n")
    links = "docs/page.md docs/page.md#one-name1-twice docs/page.md#one-name1-twice-1 https://example.com/none"
    wrong = "docs/none.md docs/page.md#none #none"
    (tmp_path / "README.md").write_text("".join(f"[a](<{link}>), `[b](none)`\n" for link in f"{links} {wrong}".split()))
    assert [line.split(": ")[1] for line in check.broken_links(tmp_path)] == wrong.split()


def test_the_settings_page_is_current() -> None:
    page = MAKE_SETTINGS.settings_page()
    assert (ROOT / "docs" / "settings.md").read_text() == page, "run: make docs"


def test_the_settings_page_explains_every_setting() -> None:
    for line in MAKE_SETTINGS.settings_page().splitlines():
        if line.startswith("| `"):
            assert line.split("|")[-2].strip(), f"{line}: its field has no docstring"

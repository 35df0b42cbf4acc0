"""The worked examples of CONTRIBUTING.md, done in a copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"^`([\w/.]+\.py)`\n\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
PATCH = re.search(r"^```diff\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
CONTRACT = [
    "test_every_corner_and_middle_of_a_space_is_a_loss",
    "test_every_preset_is_a_loss",
    "test_every_family_says_what_it_is",
    "test_a_preset_inside_the_space_is_the_same_loss_at_its_searched_point",
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and tests that the example touches, with its files and its patch applied."""
    folder = tmp_path_factory.mktemp("contributing")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("search_spaces", "trainables", "tests/search_spaces", "tests/trainables"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    assert PATCH
    subprocess.run(
        ["git", "apply", "--unidiff-zero", "-"],
        cwd=folder,
        input=PATCH[1],
        text=True,
        check=True,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
    )
    return folder


def run(folder: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "MYPY_CACHE_DIR": str(folder / ".mypy_cache")}
    command = [sys.executable, "-m", *words]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_example_names_its_files() -> None:
    assert list(FILES) == [
        "trainables/losses/logarithmic.py",
        "search_spaces/logarithmic.py",
        "tests/trainables/losses/test_logarithmic.py",
        "trainables/tasks/worst_class.py",
        "tests/trainables/tasks/test_worst_class.py",
    ]


def test_the_new_family_is_found_and_keeps_the_contract(copy: Path) -> None:
    own = "tests/trainables/losses/test_logarithmic.py"
    chosen = " or ".join(CONTRACT)
    listed = run(
        copy,
        "pytest",
        "-v",
        "-p",
        "no:cacheprovider",
        own,
        "tests/search_spaces/test_families.py",
        "-k",
        f"test_logarithmic or (({chosen}) and logarithmic)",
    )
    for name in CONTRACT:
        assert re.search(rf"{name}\[[^]]*logarithmic[^]]*\] PASSED", listed), listed
    assert len(re.findall(r"test_logarithmic\.py::\w+ PASSED", listed)) == 2


def test_the_new_task_is_found_and_passes_its_test(copy: Path) -> None:
    own = "tests/trainables/tasks/test_worst_class.py"
    assert run(copy, "pytest", "-v", "-p", "no:cacheprovider", own).count("PASSED") == 2


def test_the_example_is_in_our_own_style(copy: Path) -> None:
    run(copy, "ruff", "check", *FILES)
    run(copy, "ruff", "format", "--check", *FILES)

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
    """The packages and tests that the examples touch, with their files and the patch applied."""
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


def test_the_examples_name_their_files() -> None:
    assert list(FILES) == [
        "trainables/losses/logarithmic.py",
        "search_spaces/logarithmic.py",
        "tests/trainables/losses/test_logarithmic.py",
        "trainables/tasks/worst_class.py",
        "tests/trainables/tasks/test_worst_class.py",
        "trainables/models/dilated.py",
        "trainables/data/sources/arrays.py",
        "tests/trainables/data/test_arrays.py",
    ]


@pytest.fixture(scope="module")
def listed(copy: Path) -> str:
    """What pytest lists of the examples' own tests, and of the contract tests for what they add."""
    files = [name for name in FILES if name.startswith("tests/")]
    files += ["tests/search_spaces/test_families.py", "tests/trainables/test_model_contract.py"]
    files += ["tests/trainables/data/test_sources.py"]
    chosen = f"test_logarithmic or (({' or '.join(CONTRACT)}) and logarithmic) or test_worst_class or dilated or arrays"
    return run(copy, "pytest", "-v", "-p", "no:cacheprovider", "-m", "not slow", *files, "-k", chosen)


def test_the_new_family_is_found_and_keeps_the_contract(listed: str) -> None:
    for name in CONTRACT:
        assert re.search(rf"{name}\[[^]]*logarithmic[^]]*\] PASSED", listed), listed
    assert len(re.findall(r"test_logarithmic\.py::\w+ PASSED", listed)) == 2


def test_the_new_task_is_found_and_passes_its_test(listed: str) -> None:
    assert len(re.findall(r"test_worst_class\.py::\w+ PASSED", listed)) == 2


def test_the_new_model_is_found_and_keeps_the_contract(listed: str) -> None:
    """In 2D and in 3D."""
    passed = re.findall(r"::(\w+)\[[^]]*dilated-(.D)\] PASSED", listed)
    assert {kind for _, kind in passed} == {"2D", "3D"}
    assert {
        "test_logits_have_the_shape_of_the_image_and_every_parameter_gets_a_gradient",
        "test_a_fresh_state_in_place_is_a_fresh_model",
        "test_weights_written_and_read_by_the_exported_program_give_the_same_logits",
        "test_the_network_as_one_graph_gives_the_same_logits_and_gradients",
        "test_an_unknown_option_is_refused_on_the_meta_device",
    } <= {test for test, _ in passed}
    assert not re.search(r"dilated.* SKIPPED", listed)


def test_the_new_source_is_found_and_packed(listed: str) -> None:
    assert "test_what_is_written_is_what_is_packed PASSED" in listed
    assert "test_every_source_refuses_options_it_does_not_have[arrays] PASSED" in listed


def test_the_examples_are_in_our_own_style(copy: Path) -> None:
    run(copy, "ruff", "check", *FILES)
    run(copy, "ruff", "format", "--check", *FILES)

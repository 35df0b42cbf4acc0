"""Print exact versions of everything that the project and its dev extra need, as installed:  python .ci/pins.py"""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
ELSEWHERE = ("torch",)
"""Pinned in the Makefile: its build differs between machines."""


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """{name: version} of the installed distributions that these requirements lead to."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while wanted:
        requirement = wanted.pop()
        key = (canonicalize_name(requirement.name), tuple(sorted(requirement.extras)))
        if key in seen:
            continue
        seen.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        versions[distribution.metadata["Name"]] = distribution.version
        wanted += [r for r in map(Requirement, distribution.requires or ()) if applies(r, requirement.extras)]
    return versions


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a requirement holds on this machine, for its distribution with these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def main() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    versions = closure([Requirement(line) for line in direct])
    for name in sorted(versions, key=str.lower):
        if name not in ELSEWHERE:
            print(f"{name}=={versions[name]}")


if __name__ == "__main__":
    main()

"""python -m tune_app.sweeps: what lies on disk, how large, in which state; deletes sweeps and cleans caches."""

from __future__ import annotations

from tune_app.settings.command_line import run_verb
from tune_app.sweep.housekeeping import SweepsSettings, act


def main() -> None:
    run_verb("sweeps", SweepsSettings, act)


if __name__ == "__main__":
    main()

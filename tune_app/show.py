"""python -m tune_app.show checkpoint=best/1: what a trained network is, what it is worth, and where it came from."""

from __future__ import annotations

from tune_app.exporting.show import ShowSettings, show_and_print
from tune_app.settings.command_line import run_verb


def main() -> None:
    run_verb("show", ShowSettings, show_and_print)


if __name__ == "__main__":
    main()

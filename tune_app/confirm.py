"""python -m tune_app.confirm sweep=latest top=4 replicates=5: is the winner a winner?"""

from __future__ import annotations

from tune_app.confirmation.confirm import confirm
from tune_app.confirmation.settings import ConfirmSettings
from tune_app.settings.command_line import run_composed


def main() -> None:
    run_composed("confirm", ConfirmSettings, confirm)


if __name__ == "__main__":
    main()

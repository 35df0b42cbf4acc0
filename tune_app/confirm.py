"""python -m tune_app.confirm sweep=latest top=4 replicates=5: is the winner a winner?"""

from __future__ import annotations

import sys

from tune_app.confirmation.confirm import confirm
from tune_app.confirmation.settings import ConfirmSettings
from tune_app.settings.command_line import compose, exit_code


def main() -> None:
    sys.exit(exit_code(_compose_and_confirm))


def _compose_and_confirm() -> int:
    composed = compose("confirm", ConfirmSettings, sys.argv[1:])
    return confirm(composed) if composed else 0


if __name__ == "__main__":
    main()

"""The errors of this package.

TuneAppError               root; its message is one sentence for the person at the terminal; exit code 1
  InputError               what was typed, or lies on disk, cannot be used as asked (also a ValueError); exit code 2
  RunFailed                the input was good and the work failed all the same; exit code 1

The command line prints the message without a traceback and exits with `exit_code`.
"""


class TuneAppError(Exception):
    """Root of all errors that a person at the command line can read and act on."""

    exit_code = 1


class InputError(TuneAppError, ValueError):
    """Bad input: the message gives what was given, the rule, the choices and the fix. Nothing was changed."""

    exit_code = 2


class RunFailed(TuneAppError):
    """The run failed: the message says what failed and how to go on."""

    exit_code = 1


def require_input(condition: bool, name: str, value: object, rule: str, fix: str) -> None:
    """Raise InputError unless `condition`: name, value, rule and fix in one sentence."""
    if not condition:
        raise InputError(f"{name}={value}: {rule}. {fix}.")

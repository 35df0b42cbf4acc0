"""The errors of this package.

TuneAppError               root; its message is one sentence for the person at the terminal; exit code 1
  InputError               what was typed, or lies on disk, cannot be used as asked (also a ValueError); exit code 2
  RunFailed                the input was good and the work failed all the same; exit code 1

The command line prints the message without a traceback and exits with `exit_code`.
"""

import contextlib
from collections.abc import Iterator


class TuneAppError(Exception):
    """Root of all errors that a person at the command line can read and act on."""

    exit_code = 1


class InputError(TuneAppError, ValueError):
    """Bad input: the message gives what was given, the rule, the choices and the fix. Nothing was changed."""

    exit_code = 2


class RunFailed(TuneAppError):
    """The run failed: the message says what failed and how to go on."""


@contextlib.contextmanager
def written(what: str, fix: str) -> Iterator[None]:
    """Within it, what cannot be written is an InputError: what it is, why, and the fix."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what}: cannot be written ({error.strerror or error}). {fix}") from None

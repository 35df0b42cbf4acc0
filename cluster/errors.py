"""The errors of this package; each message is one sentence for the person at the terminal.

ClusterError               root; exit code 1
  ClusterInputError        what was typed, or is there, cannot be used as asked; exit code 2
    SlurmRefused           Slurm is there and said no
"""


class ClusterError(Exception):
    """Root of all errors that a person at the command line can read and act on."""

    exit_code = 1


class ClusterInputError(ClusterError, ValueError):
    """Bad input: the message gives what was given, the rule and the fix."""

    exit_code = 2


class SlurmRefused(ClusterInputError):
    """Slurm refused a job: an unknown partition, account or QOS, or a limit."""

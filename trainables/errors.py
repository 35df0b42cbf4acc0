"""The errors of this package.

TrainablesError            root; its message is one sentence for the person at the terminal
  SettingsError            a setting outside its range (also a ValueError)
  DataError                data on disk that cannot be used as asked
  CheckpointError          a checkpoint that cannot be read
  WorkerError              a process of a trial of several was lost
  MemoryShortError         not even one patch at a time fits into memory
"""


class TrainablesError(Exception):
    """Root of all errors that a user of `trainables` can cause and mend."""


class SettingsError(TrainablesError, ValueError):
    """A setting lies outside its range: the message gives the value, the rule, the choices and the fix."""


class DataError(TrainablesError):
    """Data on disk that is missing, broken, or contradicts its own description."""


class CheckpointError(TrainablesError):
    """A checkpoint that is missing, cut short, or belongs to another configuration."""


class WorkerError(TrainablesError):
    """A process of a trial that has several was lost or failed: the trial goes on from its checkpoint, elsewhere."""


class MemoryShortError(TrainablesError):
    """Not even one patch at a time fits into the memory that a trial has."""

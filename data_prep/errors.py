"""The errors this project raises if its input cannot be used.

Every message is one sentence that names the file, what is wrong with it and what to do.
"""


class ECGError(Exception):
    """An input cannot be used; the message says which and how to fix it."""


class RecordError(ECGError):
    """A recording cannot be read, or is not a usable 12-lead ECG."""


class LabelError(ECGError):
    """A table of labels, or a label in it, is invalid."""


class StoreError(ECGError):
    """A store is missing, damaged, of another schema, or lacks what was asked of it."""


class ModelFileError(ECGError):
    """A model file is corrupt, belongs to another package, or does not match the other models."""


class PredictionsError(ECGError):
    """A predictions file is corrupt or does not match the labels it is scored against."""


class OptionError(ECGError):
    """The options of a command, or the arguments of a function, contradict each other."""


class JobError(ECGError):
    """Some jobs of a larger computation failed; the results of the others are kept."""


class DownloadError(ECGError):
    """A server does not answer, lacks a file it lists, or holds a different one."""

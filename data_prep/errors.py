"""The errors this project raises about what it was given.

Every message is one sentence that names the file, what is wrong with it and what to do.
"""


class ECGError(Exception):
    """Something we were given cannot be used; the message says what and how to mend it."""


class RecordError(ECGError):
    """A recording cannot be read, or is not a usable 12-lead ECG."""


class LabelError(ECGError):
    """A table of labels, or a label in it, cannot be understood."""


class StoreError(ECGError):
    """A store is missing, broken, of another schema, or does not hold what was asked of it."""


class ModelFileError(ECGError):
    """A model file is corrupt, belongs to another package, or does not fit its companions."""


class PredictionsError(ECGError):
    """A file of predictions is corrupt or does not fit the labels it is scored against."""


class OptionError(ECGError):
    """The options of a command, or the arguments of a function, contradict each other."""


class JobError(ECGError):
    """Jobs of a larger computation failed; the results of the others are kept."""


class DownloadError(ECGError):
    """A server does not answer, lacks a file it lists, or holds another than it lists."""

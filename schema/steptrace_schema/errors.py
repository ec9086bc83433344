"""The exceptions that steptrace raises for bad input; their text is what a user reads."""


class TraceError(Exception):
    """Something is wrong with a trace, or with what was asked of it.

    The message is one sentence or two that name the file and the array, what was expected and
    found, and what to do. The command line prints it as it stands and exits with code 2.
    """


class NotATraceError(TraceError):
    """The path holds nothing that can be read as a trace."""


class UnsupportedVersionError(TraceError):
    """The trace declares a format version that this package does not read."""


class TraceExistsError(TraceError):
    """A new run would write over an existing trace."""


class DamagedTraceError(TraceError):
    """A part of the trace cannot be decoded."""


class UnknownNameError(TraceError):
    """A layer, tensor or kind was asked for that the trace does not have."""


class StepNotRecordedError(TraceError):
    """A step was asked for that the trace does not have."""


class UnreachableError(TraceError):
    """An object store does not answer, or refuses; another try may succeed."""


class DiskLimitError(TraceError):
    """What is to be recorded has no room within the policy's ``disk_limit``."""

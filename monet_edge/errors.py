"""The exceptions of monet-edge: every message says what was expected, what was found and what to do."""


def kind(found: object) -> str:
    """What something is, for the message that says that another thing was expected: "numpy.ndarray"."""
    return f"{type(found).__module__}.{type(found).__name__}"


class MonetError(Exception):
    """Base of everything raised on purpose; the command line prints it as one line and exits with status 2."""


class ScanError(MonetError):
    """A scan cannot be read, or cannot be trusted: truncated, corrupt, of an unsupported kind."""


class OutputError(MonetError):
    """A result cannot be written: it exists, it is the input itself, the disk is full."""


class ModelError(MonetError):
    """A model is unknown, or its weights file is corrupt or not what its Spec says."""


class SpecError(ModelError):
    """A network description is not valid: unknown kind or key, missing input, shapes that do not fit."""


class DatasetError(MonetError):
    """A training data set is incomplete or inconsistent."""


class ResourceError(MonetError):
    """The work would need more memory than this process may use."""

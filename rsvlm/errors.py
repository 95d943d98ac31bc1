"""The one exception family of the package.

Every error that a user can cause or mend is a `RsvlmError`: its message names the file or value, what was expected and what
to do next. The command line prints the message alone; a notebook shows it as the last line of the traceback.
"""


class RsvlmError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(RsvlmError):
    """An option has an unknown name or a value out of range."""


class DataError(RsvlmError):
    """A file or folder of data is missing, broken, or not what its name says."""


class ModelError(RsvlmError):
    """A checkpoint, tokenizer or tensor does not fit the model."""


class MissingExtraError(RsvlmError):
    """An optional dependency is not installed; the message names the extra that brings it."""

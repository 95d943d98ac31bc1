"""The one exception family of the package.

Every error that a user can cause or mend is a `RsvlmError`: its message names the file or value, what was expected and what
to do next. The command line prints the message alone; a notebook shows it as the last line of the traceback.
"""

from __future__ import annotations

import importlib
from types import ModuleType


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


def need(package: str, extra: str) -> ModuleType:
    """Import an optional package, or say how to get it.

    Args:
        package: Name of a module, as in `rasterio` or `google.genai`.
        extra: Extra that brings it.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = error.name or package
        raise MissingExtraError(f"the package {name} is not installed: pip install 'rsvlm[{extra}]'") from None

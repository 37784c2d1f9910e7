"""Packages that only some files need."""

import importlib
from typing import Any

from jaxprune.io._checkpoint import CheckpointError


def needed(module: str, purpose: str) -> Any:
    """Imports a package that comes with orbax-checkpoint.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise CheckpointError(
            f"{purpose} need {module}, which is not installed: pip install orbax-checkpoint."
        ) from None

"""Optional packages that a training needs."""

from __future__ import annotations

from importlib.util import find_spec

from senet.errors import SenetError
from senet.training.logs import require_loggers
from senet.training.recipe import LAMB, Recipe, RunOptions

__all__ = ["require_packages"]


def require_packages(recipe: Recipe, run: RunOptions) -> None:
    """Check that the packages of the optimizer and the loggers are installed.

    Raises:
        SenetError: One is missing. The message names the extra to install.
    """
    require_loggers(run)
    if recipe.optimizer == LAMB and find_spec("timm") is None:
        raise SenetError("--optimizer lamb needs the package timm: pip install 'senet[timm]'")

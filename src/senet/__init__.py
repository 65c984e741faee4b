"""Squeeze-and-Excitation networks for PyTorch: layers, models, surgery on any network, and training.

`import senet` imports nothing else. Each name imports its module at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.errors import SenetError as SenetError
    from senet.fusion import optimize as optimize
    from senet.gates import record_gates as record_gates
    from senet.nn import BAM as BAM
    from senet.nn import CBAM as CBAM
    from senet.nn import ECA as ECA
    from senet.nn import ESE as ESE
    from senet.nn import GE as GE
    from senet.nn import SE as SE
    from senet.nn import SK as SK
    from senet.nn import ScSE as ScSE
    from senet.nn import SpatialSE as SpatialSE
    from senet.nn import SqueezeExcite as SqueezeExcite
    from senet.profiling import cost as cost
    from senet.surgery import freeze as freeze
    from senet.surgery import plan as plan
    from senet.surgery import prune as prune
    from senet.surgery import remove as remove
    from senet.surgery import retrofit as retrofit
    from senet.surgery import trainable as trainable
    from senet.tasks import load_model as load_model
    from senet.weights import load_weights as load_weights
    from senet.zoo import create_model as create_model
    from senet.zoo import list_models as list_models

__version__ = "0.1.0"

_MODULES = {
    "cost": "senet.profiling",
    "load_model": "senet.tasks",
    "load_weights": "senet.weights",
    **dict.fromkeys(("accelerate", "optimize"), "senet.fusion"),
    "SenetError": "senet.errors",
    **dict.fromkeys(("BAM", "CBAM", "ECA", "ESE", "GE", "SE", "SK", "ScSE", "SpatialSE", "SqueezeExcite"), "senet.nn"),
    "record_gates": "senet.gates",
    **dict.fromkeys(("freeze", "plan", "prune", "remove", "retrofit", "trainable"), "senet.surgery"),
    **dict.fromkeys(("create_model", "list_models"), "senet.zoo"),
}

__all__ = sorted([*_MODULES, "__version__"])  # noqa: PLE0605 - it is a list of strings


def __getattr__(name: str) -> Any:
    if name == "deploy":  # `senet.deploy.export` after a bare `import senet`
        return importlib.import_module("senet.deploy")
    if name not in _MODULES:
        raise AttributeError(f"module 'senet' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

"""Read objects beside the weights (settings, optimizer states, logs) as inert placeholders.

PyTorch's restricted unpickler calls only registered classes. Known class names are registered here with a placeholder
each. Neither the named class nor its library is imported or called.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import numpy as np
import torch

__all__ = ["placeholders"]

_OBJECTS: Final = """
argparse.Namespace types.SimpleNamespace copyreg._reconstructor functools.partial fractions.Fraction decimal.Decimal
uuid.UUID datetime.datetime datetime.date datetime.time datetime.timedelta datetime.timezone
builtins.getattr builtins.frozenset builtins.slice builtins.range builtins.object builtins.dict builtins.list
builtins.tuple builtins.int builtins.float builtins.str builtins.bool builtins.bytes builtins.type
typing.Any typing.Union typing.Optional typing.Dict typing.List typing.Tuple types.GenericAlias
operator.getitem _operator.getitem operator.or_ _operator.or_ functools.reduce _functools.reduce
numpy.dtype numpy.ndarray numpy.core.multiarray.scalar numpy._core.multiarray.scalar
numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct
numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer numpy.random.mtrand.RandomState
numpy.random._pickle.__randomstate_ctor numpy.random._pickle.__generator_ctor
numpy.random._pickle.__bit_generator_ctor numpy.random._mt19937.MT19937 numpy.random._pcg64.PCG64
numpy.random.bit_generator.SeedSequence numpy.random.bit_generator.__pyx_unpickle_SeedSequence
torch.torch_version.TorchVersion
torch.optim.optimizer.Optimizer torch.optim.swa_utils.SWALR
omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig omegaconf.base.ContainerMetadata
omegaconf.base.Metadata omegaconf.nodes.AnyNode omegaconf.nodes.StringNode omegaconf.nodes.IntegerNode
omegaconf.nodes.FloatNode omegaconf.nodes.BooleanNode omegaconf.nodes.EnumNode omegaconf.nodes.PathNode
omegaconf.nodes.BytesNode omegaconf.nodes.InterpolationResultNode
ml_collections.config_dict.config_dict.ConfigDict ml_collections.config_dict.config_dict.FrozenConfigDict
ml_collections.config_dict.config_dict.FieldReference mmengine.config.config.Config
mmengine.logging.history_buffer.HistoryBuffer mmcv.utils.config.Config
torchvision.transforms.functional.InterpolationMode torchvision.transforms.autoaugment.AutoAugmentPolicy
PIL.Image.Resampling
deepspeed.runtime.fp16.loss_scaler.LossScaler deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler
deepspeed.runtime.zero.config.ZeroStageEnum deepspeed.utils.tensor_fragment.fragment_address
"""
"""Values, arrays, settings and logs. `torch.load` itself reads tensors, `OrderedDict`, `Counter` and `torch.Size`."""

_PATHS: Final = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")

_MAPPINGS: Final = """
collections.defaultdict yacs.config.CfgNode fvcore.common.config.CfgNode detectron2.config.config.CfgNode
easydict.EasyDict addict.addict.Dict box.box.Box munch.Munch dotmap.DotMap
mmengine.config.config.ConfigDict mmcv.utils.config.ConfigDict
lightning.fabric.utilities.data.AttributeDict lightning_fabric.utilities.data.AttributeDict
lightning.pytorch.utilities.parsing.AttributeDict pytorch_lightning.utilities.parsing.AttributeDict
"""
"""Dictionary types. Their entries are kept, so that weights inside are found."""

_LISTS: Final = "collections.deque"

_CALLBACKS: Final = ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
"""Classes that files of old Lightning versions have as keys."""


class _Placeholder:
    """Accepts any arguments and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Placeholder:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class _Mapping:
    """Becomes an `OrderedDict`, which the unpickler can fill and give attributes."""

    def __new__(cls, *_: Any, **__: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _List:
    """Becomes a list."""

    def __new__(cls, *_: Any, **__: Any) -> list[Any]:  # type: ignore[misc]
        return []


def _of_torch() -> Iterator[str]:
    """Optimizers, schedules, losses, activations and norms: hyperparameters, not networks."""
    modules = torch.nn.modules
    sources = (
        *(torch.optim, torch.optim.lr_scheduler),
        *(modules.loss, modules.activation, modules.batchnorm, modules.normalization),
    )
    for source in sources:
        for value in vars(source).values():
            if isinstance(value, type) and value.__module__.startswith(("torch.optim.", source.__name__)):
                yield f"{value.__module__}.{value.__qualname__}"


@cache
def _by_name() -> list[tuple[type, str]]:
    names = {
        _Placeholder: {
            *_OBJECTS.split(),
            *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
            *(f"numpy.{kind.__name__}" for kind in {*np.sctypeDict.values()}),
            *(f"{library}.callbacks.{name}" for library in ("pytorch_lightning", "lightning.pytorch")
              for name in _CALLBACKS),
            *_of_torch(),
        },
        _Mapping: set(_MAPPINGS.split()),
        _List: set(_LISTS.split()),
    }  # fmt: skip
    return [(type(name, (kind,), {}), name) for kind, members in names.items() for name in sorted(members)]


_LOCK = threading.Lock()


@contextmanager
def placeholders() -> Iterator[None]:
    """Let `torch.load(weights_only=True)` read the known names as placeholders within this context.

    PyTorch's list of names belongs to the whole process. A lock lets one thread at a time change it.
    """
    with _LOCK, torch.serialization.safe_globals(list(_by_name())):
        yield

"""The network families: one file per family. A variant is a frozen spec."""

from senet.models.backbone import Backbone
from senet.models.published import PUBLISHED, Published
from senet.models.registry import MODELS
from senet.models.spec import BlockShape, ModelSpec
from senet.models.stage import Stage
from senet.models.stages import ConvNet

__all__ = ["MODELS", "PUBLISHED", "Backbone", "BlockShape", "ConvNet", "ModelSpec", "Published", "Stage"]

"""The networks for `torch.hub`: one entry point per name of `senet.list_models()`.

torch.hub.load("OWNER/senet", "se_resnet50", pretrained=True)
torch.hub.load("path/to/this/folder", "se_resnet50", source="local", num_classes=10)
"""

import sys
from pathlib import Path as _Path

dependencies = ["torch", "safetensors", "huggingface_hub", "numpy"]

sys.path.insert(0, str(_Path(__file__).parent / "src"))  # this checkout before an installed release
try:
    from senet import create_model as _create_model
    from senet import list_models as _list_models
finally:
    del sys.path[0]


def _entry(name):
    def entry(**options):
        return _create_model(name, **options)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"Build `{name}`. The options are those of `senet.create_model`:\n\n{_create_model.__doc__}"
    return entry


globals().update({name: _entry(name) for name in _list_models()})

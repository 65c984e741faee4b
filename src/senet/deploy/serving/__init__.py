"""A local web page on which people try a trained network with images of their own."""

from senet.deploy.serving.explanation import Explanation, explain
from senet.deploy.serving.server import serve

__all__ = ["Explanation", "explain", "serve"]

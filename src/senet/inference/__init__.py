"""Using a trained network: evaluate it on a labelled data set, predict on image files."""

from senet.inference.evaluation import Evaluation, evaluate
from senet.inference.prediction import Prediction, predict

__all__ = ["Evaluation", "Prediction", "evaluate", "predict"]

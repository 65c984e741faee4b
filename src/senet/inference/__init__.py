"""Using a trained network: evaluate it on a labelled data set, predict on image files."""

from senet.inference.dense import DenseEvaluation, Seen, evaluate_dense, look
from senet.inference.evaluation import Evaluation, evaluate
from senet.inference.part import Part, chosen_part
from senet.inference.prediction import Prediction, predict

__all__ = [
    "DenseEvaluation",
    "Evaluation",
    "Part",
    "Prediction",
    "Seen",
    "chosen_part",
    "evaluate",
    "evaluate_dense",
    "look",
    "predict",
]

"""Inference: evaluate a trained network on labelled data, predict on image files."""

from senet.inference.data_part import Part, chosen_part
from senet.inference.dense import DenseEvaluation, DensePrediction, evaluate_dense, predict_dense
from senet.inference.evaluation import Evaluation, evaluate
from senet.inference.prediction import Prediction, predict

__all__ = [
    "DenseEvaluation",
    "DensePrediction",
    "Evaluation",
    "Part",
    "Prediction",
    "chosen_part",
    "evaluate",
    "evaluate_dense",
    "predict",
    "predict_dense",
]

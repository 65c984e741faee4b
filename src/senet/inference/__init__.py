"""Inference: evaluate a trained network on labelled data, predict on image files."""

from senet.inference.arrays import Classification
from senet.inference.class_metrics import ClassMetrics
from senet.inference.dense import DenseEvaluation, DensePrediction, evaluate_dense, predict_dense
from senet.inference.evaluation import Evaluation, evaluate
from senet.inference.evaluation_split import EvaluationSplit, choose_split
from senet.inference.prediction import Prediction, predict
from senet.inference.resizing import at_size

__all__ = [
    "ClassMetrics",
    "Classification",
    "DenseEvaluation",
    "DensePrediction",
    "Evaluation",
    "EvaluationSplit",
    "Prediction",
    "at_size",
    "choose_split",
    "evaluate",
    "evaluate_dense",
    "predict",
    "predict_dense",
]

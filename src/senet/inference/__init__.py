"""Inference: evaluate a trained network on labelled data, predict on image files."""

from senet.inference.arrays import Classification, MultiLabelPrediction
from senet.inference.class_metrics import ClassMetrics
from senet.inference.dense import DenseEvaluation, DensePrediction, evaluate_dense, predict_dense
from senet.inference.evaluation import Evaluation, evaluate
from senet.inference.evaluation_split import EvaluationSplit, choose_split
from senet.inference.label_evaluation import LabelMetrics, MultiLabelEvaluation, evaluate_labels
from senet.inference.prediction import Prediction, predict, predict_labels
from senet.inference.resizing import at_size

__all__ = [
    "ClassMetrics",
    "Classification",
    "DenseEvaluation",
    "DensePrediction",
    "Evaluation",
    "EvaluationSplit",
    "LabelMetrics",
    "MultiLabelEvaluation",
    "MultiLabelPrediction",
    "Prediction",
    "at_size",
    "choose_split",
    "evaluate",
    "evaluate_dense",
    "evaluate_labels",
    "predict",
    "predict_dense",
    "predict_labels",
]

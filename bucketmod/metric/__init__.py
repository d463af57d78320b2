"""``mx.metric``: evaluation metrics, totals over batches that ``fit`` and ``score`` update."""

from bucketmod.metric.base import EvalMetric, alias, check_label_shapes, register
from bucketmod.metric.classification import F1, MCC, Accuracy, TopKAccuracy
from bucketmod.metric.composite import CompositeEvalMetric, CustomMetric, create, np
from bucketmod.metric.correlation import PCC, PearsonCorrelation
from bucketmod.metric.likelihood import CrossEntropy, NegativeLogLikelihood, Perplexity
from bucketmod.metric.regression import MAE, MSE, RMSE, Caffe, Loss, Torch

__all__ = [
    "F1",
    "MAE",
    "MCC",
    "MSE",
    "PCC",
    "RMSE",
    "Accuracy",
    "Caffe",
    "CompositeEvalMetric",
    "CrossEntropy",
    "CustomMetric",
    "EvalMetric",
    "Loss",
    "NegativeLogLikelihood",
    "PearsonCorrelation",
    "Perplexity",
    "TopKAccuracy",
    "Torch",
    "alias",
    "check_label_shapes",
    "create",
    "np",
    "register",
]

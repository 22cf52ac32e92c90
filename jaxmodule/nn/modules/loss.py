"""Losses as layers: each calls the functional of its name. They are in files by kind; this is torch's one for all."""

from __future__ import annotations

from ._loss_base import _Loss as _Loss
from ._loss_base import _WeightedLoss as _WeightedLoss
from ._loss_binary import BCELoss, BCEWithLogitsLoss, MultiLabelSoftMarginLoss, SoftMarginLoss
from ._loss_classification import CrossEntropyLoss, NLLLoss, NLLLoss2d
from ._loss_embedding import CosineEmbeddingLoss, TripletMarginLoss, TripletMarginWithDistanceLoss
from ._loss_likelihood import CTCLoss, GaussianNLLLoss, KLDivLoss, PoissonNLLLoss
from ._loss_margin import HingeEmbeddingLoss, MarginRankingLoss, MultiLabelMarginLoss, MultiMarginLoss
from ._loss_regression import HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from .linear_cross_entropy import LinearCrossEntropyLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LinearCrossEntropyLoss",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]

"""Losses of training, found by name; importing the folder makes them known."""

from .attention import AttentionRelation, AttentionTransfer
from .features import Cosine, Hint
from .labels import CrossEntropy, MeanSquaredError
from .loss import LOSSES, Loss, OfFeatures, OfOutputs, Seen, find_loss_type, make_loss, make_losses
from .presets import PRESETS
from .relations import RkdAngle, RkdDistance, Similarity
from .response import Decoupled, KullbackLeibler, LogitsMse
from .tokens import TokenKl

__all__ = [
    "LOSSES",
    "PRESETS",
    "AttentionRelation",
    "AttentionTransfer",
    "Cosine",
    "CrossEntropy",
    "Decoupled",
    "Hint",
    "KullbackLeibler",
    "LogitsMse",
    "Loss",
    "MeanSquaredError",
    "OfFeatures",
    "OfOutputs",
    "RkdAngle",
    "RkdDistance",
    "Seen",
    "Similarity",
    "TokenKl",
    "find_loss_type",
    "make_loss",
    "make_losses",
]

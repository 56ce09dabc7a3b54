"""Losses of training, found by name; importing the folder makes them known."""

from .loss import LOSSES, Loss, Seen, find_loss_type, make_loss

__all__ = ["LOSSES", "Loss", "Seen", "find_loss_type", "make_loss"]

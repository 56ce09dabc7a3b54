"""Discretisation of supernets that mix candidates."""

from .discretize import Discretize

__all__ = ["Discretize"]

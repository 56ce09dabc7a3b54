"""factorize: weights as products of thinner ones, whose new axes are axes like any other."""

from .factorize import Factorize

__all__ = ["Factorize"]

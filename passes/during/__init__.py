"""What happens during training beside it, found by name; importing the folder makes it known."""

from .freeze import Freeze
from .gradual_sparsity import GradualSparsity
from .hook import HOOKS, Actions, Hook, Variant, find_hook, make_hook
from .progressive_shrinking import ProgressiveShrinking
from .qat import Qat

__all__ = [
    "HOOKS",
    "Actions",
    "Freeze",
    "GradualSparsity",
    "Hook",
    "ProgressiveShrinking",
    "Qat",
    "Variant",
    "find_hook",
    "make_hook",
]

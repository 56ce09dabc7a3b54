"""What happens during training beside it, found by name; importing the folder makes it known."""

from .freeze import Freeze
from .gradual_sparsity import GradualSparsity
from .hook import HOOKS, Actions, Hook, find_hook, make_hook
from .qat import Qat

__all__ = ["HOOKS", "Actions", "Freeze", "GradualSparsity", "Hook", "Qat", "find_hook", "make_hook"]

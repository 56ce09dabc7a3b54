"""The pass library: one pass, one file. Importable as ``graphc.passes``."""

from .distill import Distill
from .during import Hook
from .finetune import Finetune
from .losses import Loss
from .prune_filters import PruneFilters
from .prune_heads import PruneHeads
from .prune_layers import PruneLayers
from .prune_width import PruneWidth
from .recalibrate import Recalibrate
from .sparsify import Sparsify

__all__ = [
    "Distill",
    "Finetune",
    "Hook",
    "Loss",
    "PruneFilters",
    "PruneHeads",
    "PruneLayers",
    "PruneWidth",
    "Recalibrate",
    "Sparsify",
]

"""The pass library: one pass, one file. Importable as ``graphc.passes``."""

from .prune_filters import PruneFilters
from .prune_heads import PruneHeads
from .prune_layers import PruneLayers
from .prune_width import PruneWidth
from .recalibrate import Recalibrate
from .sparsify import Sparsify

__all__ = ["PruneFilters", "PruneHeads", "PruneLayers", "PruneWidth", "Recalibrate", "Sparsify"]

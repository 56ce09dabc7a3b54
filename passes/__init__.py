"""The pass library: one pass, one file. Importable as ``graphc.passes``."""

from .bind_input import BindInput
from .discretize import Discretize
from .distill import Distill
from .during import Actions, Hook
from .elastic import SliceElastic
from .factorize import Factorize
from .finetune import Finetune
from .losses import Loss, OfFeatures, OfOutputs, Seen
from .prune_filters import PruneFilters
from .prune_heads import PruneHeads
from .prune_layers import PruneLayers
from .prune_width import PruneWidth
from .quantize import Quantize
from .recalibrate import Recalibrate
from .search_darts import SearchDarts
from .select_outputs import SelectOutputs
from .sparsify import Sparsify
from .tie_weights import TieWeights

__all__ = [
    "Actions",
    "BindInput",
    "Discretize",
    "Distill",
    "Factorize",
    "Finetune",
    "Hook",
    "Loss",
    "OfFeatures",
    "OfOutputs",
    "PruneFilters",
    "PruneHeads",
    "PruneLayers",
    "PruneWidth",
    "Quantize",
    "Recalibrate",
    "SearchDarts",
    "Seen",
    "SelectOutputs",
    "SliceElastic",
    "Sparsify",
    "TieWeights",
]

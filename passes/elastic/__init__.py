"""Elastic networks: sub-networks of a supernet that was trained for many widths, depths and kernels.

space = find_space(program, kernel=[7, 5, 3], expand=[6, 4, 3], depth=[4, 3, 2])
spec = space.sample(torch.Generator().manual_seed(0))
small = subnetwork(program, space, spec)            # as SliceElastic(**spec.to_dict()) makes it
"""

from .finding import find_space
from .slice_elastic import SliceElastic
from .sorting import sorted_channels
from .space import Choice, Cut, DepthChoice, KernelChoice, Space, Spec, Squeeze, WidthChoice
from .subnetwork import subnetwork

__all__ = [
    "Choice",
    "Cut",
    "DepthChoice",
    "KernelChoice",
    "SliceElastic",
    "Space",
    "Spec",
    "Squeeze",
    "WidthChoice",
    "find_space",
    "sorted_channels",
    "subnetwork",
]

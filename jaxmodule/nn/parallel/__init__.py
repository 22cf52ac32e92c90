"""`torch.nn.parallel`'s names. Torch copies a model to every device; in JAX one program runs on arrays that are spread.

The classes are here for `isinstance` and for imports; making one, and calling a function, raises with the remedy. The
files are torch's, so that an import from one says it too.
"""

from . import comm, distributed  # noqa: F401
from .data_parallel import DataParallel, data_parallel
from .distributed import DistributedDataParallel
from .parallel_apply import parallel_apply
from .replicate import replicate
from .scatter_gather import gather, scatter

__all__ = [
    "DataParallel",
    "DistributedDataParallel",
    "data_parallel",
    "gather",
    "parallel_apply",
    "replicate",
    "scatter",
]

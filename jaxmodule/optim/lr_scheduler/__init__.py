"""Learning-rate schedulers: `torch.optim.lr_scheduler` on optimizers of this library, and as optax schedules.

A scheduler is called between steps, on the host: it sets `group["lr"]` of each group in double precision, which
compiles nothing anew. Where its rate is a function of the step alone, `as_optax()` (or, without an optimizer,
`CosineAnnealingLR.schedule(0.1, T_max=100)`) is that function for use under `jm.jit` and with any optax transformation.
"""

from .base import LRScheduler
from .combined import ChainedScheduler, SequentialLR
from .cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts, WarmupCosineLR
from .cyclic import CyclicLR
from .factors import ConstantLR, ExponentialLR, LinearLR, MultiStepLR, PolynomialLR, StepLR
from .functions import LambdaLR, MultiplicativeLR
from .one_cycle import OneCycleLR
from .plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupCosineLR",
]

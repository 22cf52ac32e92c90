"""`SparseAdam`, which JAX has no gradients for."""

from .given import Groups


class SparseAdam:
    """Torch's Adam for sparse gradients: raises, as JAX has no sparse gradients.

    Args:
        params, lr, betas, eps, maximize: torch's; not looked at.

    Raises:
        RuntimeError: always; with what to use instead.
    """

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        raise RuntimeError(
            "SparseAdam does not support dense gradients, please consider Adam instead: JAX has no sparse gradients, "
            "so that those of nn.Embedding(sparse=True) are dense too. jm.optim.Adam takes the same arguments, and "
            "moves rows without a gradient as well."
        )

"""AdamW with torch's arguments and defaults."""

from .adam import Adam
from .given import Groups
from .rule import StateDtype


class AdamW(Adam):
    """Adam with decoupled weight decay: `p -= lr·weight_decay·p`, then Adam's step.

    Args: as `Adam`; `weight_decay` is 0.01 unless given.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.

    Example:
        >>> import jaxmodule as jm
        >>> from jaxmodule import nn
        >>> jm.optim.AdamW(nn.Linear(2, 2).parameters()).param_groups[0]["weight_decay"]
        0.01
    """

    def __init__(
        self,
        params: Groups,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: StateDtype = None,
        master_weights: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            state_dtype=state_dtype,
            master_weights=master_weights,
        )

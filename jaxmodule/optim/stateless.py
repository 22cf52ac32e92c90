"""`swap_in_optimizer_params_and_state`, which JAX has no need of."""

from typing import Any, NoReturn


def swap_in_optimizer_params_and_state(
    optimizer: Any, swapin_parameters: dict[str, Any], swapin_optim_state: dict[str, Any]
) -> NoReturn:
    """Torch's way to run a step on other parameters and state: raises, as JAX's arrays are not changed in place.

    Args:
        optimizer, swapin_parameters, swapin_optim_state: torch's; not looked at.

    Raises:
        NotImplementedError: always; with what to use instead.
    """
    raise NotImplementedError(
        "swap_in_optimizer_params_and_state hands results back by writing into the tensors it was given, and JAX's "
        "arrays cannot be written into. To trace a step: jm.jit(step).lower(model, optimizer), jm.make_jaxpr or "
        "jm.eval_shape, which leave model and optimizer as they are. To step other values: "
        "`model, optimizer = copy.deepcopy((model, optimizer))`, then load_state_dict on both."
    )

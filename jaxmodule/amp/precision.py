"""The precision of float32 products on devices that have a faster, less precise one."""

import jax

#: torch's names, and what JAX calls them.
_OF_TORCH = {"highest": "float32", "high": "tensorfloat32", "medium": "bfloat16"}
_OF_JAX = {
    **dict.fromkeys(("highest", "float32"), "highest"),
    **dict.fromkeys(("high", "tensorfloat32"), "high"),
    **dict.fromkeys(("default", "fastest", "bfloat16"), "medium"),
}


def set_float32_matmul_precision(precision: str) -> None:
    """Choose how precise products of float32 arrays are, for all of JAX: `jax_default_matmul_precision`.

    Args:
        precision: "highest": float32; "high": TensorFloat32 or three products of bfloat16; "medium": one product of
            bfloat16. What a device doesn't have is computed more precisely; on CPUs all three are float32.

    Raises:
        ValueError: another name.

    Note:
        torch begins with "highest". JAX begins with what its devices do best, which is float32 on CPUs and less on GPUs
        and TPUs: call this with "highest" to have torch's numbers there. `with jax.default_matmul_precision(...)` is
        the same for a block. A compiled program is compiled again when it is called after a change.

    Example:
        >>> import jaxmodule as jm
        >>> before = jm.amp.get_float32_matmul_precision()
        >>> jm.amp.set_float32_matmul_precision("high")
        >>> jm.amp.get_float32_matmul_precision()
        'high'
        >>> jm.amp.set_float32_matmul_precision(before)
    """
    if precision not in _OF_TORCH:
        raise ValueError(f"float32 matmul precision is one of {sorted(_OF_TORCH)}, got {precision!r}")
    jax.config.update("jax_default_matmul_precision", _OF_TORCH[precision])


def get_float32_matmul_precision() -> str:
    """How precise products of float32 arrays are: "highest", "high" or "medium".

    Where nothing was chosen, that is what JAX does by itself: "highest" on CPUs, "high" on GPUs, "medium" on TPUs.
    """
    now = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if now is None:
        return {"cpu": "highest", "tpu": "medium"}.get(jax.default_backend(), "high")
    return _OF_JAX.get(str(now).lower(), str(now))

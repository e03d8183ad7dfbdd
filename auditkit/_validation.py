"""Turn what callers pass into checked arrays; every message names the argument, what arrived and the remedy."""

from __future__ import annotations

from typing import Any

import numpy as np

from auditkit._typing import FloatArray, VectorLike
from auditkit.errors import InputError


def to_numpy(values: Any) -> np.ndarray[Any, Any]:
    """Return the values as a NumPy array without gradient and on the host."""
    if hasattr(values, "detach"):
        return _tensor_to_numpy(values)
    if hasattr(values, "to_numpy"):
        return np.asarray(values.to_numpy())
    return np.asarray(values)


def _tensor_to_numpy(values: Any) -> np.ndarray[Any, Any]:
    import torch

    if torch._C._functorch.is_functorch_wrapped_tensor(values):  # type: ignore[attr-defined]
        raise InputError(
            "a torch.func transform hides the values of this argument; transform with respect to the layer's scores, "
            "tolerances, weights, bounds or labels of residuals, and pass everything else as plain values"
        )
    with torch._C._DisableFuncTorch():  # a plain value stays one inside a transform of something else
        plain = values.detach().cpu()
        return np.asarray((plain.float() if plain.dtype in (torch.float16, torch.bfloat16) else plain).numpy())


def check_vector(name: str, values: VectorLike, *, n_rows: int | None = None) -> FloatArray:
    """Return ``values`` as finite float64 of shape (n,).

    Raises:
        InputError: Not numeric, not one-dimensional, of the wrong length, or with NaN or infinity.
    """
    try:
        array = to_numpy(values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers, one per row; {error}") from error
    if array.ndim != 1:
        raise InputError(f"{name} must have shape (n,), one number per row; got shape {array.shape}")
    if n_rows is not None and len(array) != n_rows:
        raise InputError(f"{name} must have {n_rows} rows, as many as groups has; got {len(array)}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise InputError(
            f"{name} holds {bad.size} NaN or infinite values (first at row {bad[0]}); "
            "drop those rows or fix the model that produced them"
        )
    return array


def check_matrix(name: str, values: VectorLike, *, shape: tuple[int, int]) -> FloatArray:
    """Return ``values`` as finite float64 of shape (n, k), one number per row and output.

    Raises:
        InputError: Not numeric, of another shape than the scores, or with NaN or infinity.
    """
    array = to_numpy(values)
    if array.shape != shape:
        raise InputError(f"{name} must have shape {shape}, that of the scores; got {array.shape}")
    return check_vector(name, array.ravel()).reshape(shape)


def check_weights(values: VectorLike | None, *, n_rows: int) -> FloatArray | None:
    """Return row weights as finite, non-negative float64, or None when none were given."""
    if values is None:
        return None
    weights = check_vector("weights", values, n_rows=n_rows)
    if (weights < 0).any() or (len(weights) and weights.sum() == 0):
        raise InputError("weights must be non-negative and not all zero; pass the number of people each row stands for")
    return weights


def check_probability(name: str, value: float) -> float:
    """Return ``value`` when it lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise InputError(f"{name} must lie strictly between 0 and 1; got {value!r}")
    return float(value)


def check_binary(name: str, labels: FloatArray) -> FloatArray:
    """Return ``labels`` when every value is 0 or 1."""
    if not ((labels == 0.0) | (labels == 1.0)).all():
        values = np.unique(labels)
        shown = ", ".join(f"{v:g}" for v in values[:5])
        raise InputError(f"{name} must be binary (0 or 1); got values {shown}{', …' if len(values) > 5 else ''}")
    return labels

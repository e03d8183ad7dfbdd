"""Names for the types that appear in many signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    import torch

    VectorLike: TypeAlias = "NDArray[Any] | torch.Tensor | pd.Series | Sequence[Any]"
else:
    VectorLike: TypeAlias = Any

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]

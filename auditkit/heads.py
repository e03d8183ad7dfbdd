"""The head that is tuned: a small network on frozen features, saved without code."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from auditkit._files import write_whole
from auditkit._typing import FloatArray, VectorLike
from auditkit.errors import InputError
from auditkit.feature_rows import BLOCK_VALUES, FeatureRows

ScoreSpace = Literal["probability", "logit", "identity"]

WEIGHTS = "head.safetensors"
SETTINGS = "head.json"
"""Where heads of earlier versions keep their settings."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training history.

    Attributes:
        epoch: Number of the epoch, from 0.
        loss: Mean training loss of the projected scores.
        validation_loss: Mean loss of the projected validation scores.
        gap: Largest constrained gap of the head's own training scores, before the projection, as the epoch's steps saw
            them.
        validation_gap: The same on the validation rows, after the epoch.
        multipliers: Criterion → largest multiplier |λ|/n of its constraints at the last step: the score units by which
            ½·mean (ỹ − z)² (or the mean log-loss that is added) falls per unit of tolerance.
        suppressed_share: ‖(I − J)g‖/‖g‖, the part of the gradient that the projection took off (by log-loss, how much
            it changed it), averaged over the epoch's steps; None for a loss without a projection.
    """

    epoch: int
    loss: float
    validation_loss: float
    gap: float
    validation_gap: float
    multipliers: dict[str, float] = field(default_factory=dict)
    suppressed_share: float | None = None


class FairHead(nn.Module):
    """A head on standardised frozen features u = (x − μ)/σ: h(x) = w·u + b, plus v·relu(Au + a) with a hidden layer.

    Args:
        n_features: Width of the features.
        hidden: Width of the hidden layer; None for a linear head.
        score_space: What calling the head returns: probabilities, logits, or the raw output.
        outputs: 1, or one output per class: then scores have shape (n, k), and probabilities are a softmax.
    """

    def __init__(
        self,
        n_features: int,
        *,
        hidden: int | None = None,
        score_space: ScoreSpace = "probability",
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.n_features = n_features
        self.hidden = hidden
        self.score_space: ScoreSpace = score_space
        self.history: tuple[EpochRecord, ...] = ()
        self.best_epoch: int | None = None
        self.register_buffer("mean", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features, dtype=torch.float64))
        self.linear = nn.Linear(n_features, outputs).double()
        self.deep: nn.Sequential | None = None
        if hidden is not None:
            self.deep = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, outputs)).double()
            for parameter in self.deep[2].parameters():
                nn.init.zeros_(parameter)  # the hidden layer starts as a correction of size zero

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n *k"]:
        """Output before the sigmoid or softmax, shape (n,), or (n, k) for several outputs."""
        exact = features.to(self.linear.weight.dtype)
        output = self._on_raw(self.linear, exact)
        if self.deep is not None:
            output = output + self.deep[2](self.deep[1](self._on_raw(self.deep[0], exact)))
        return output.squeeze(1) if self.outputs == 1 else output

    def _on_raw(self, layer: nn.Module, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """A linear layer of the standardised features, with the standardisation folded into its weights."""
        weight = layer.get_parameter("weight") / self.get_buffer("scale")
        bias = layer.get_parameter("bias") - weight @ self.get_buffer("mean")
        return nn.functional.linear(features, weight, bias)

    @torch.no_grad()
    def start_from(self, features: Float[Tensor, "n d"], scores: Float[Tensor, " n"]) -> None:
        """Set the linear part to the least-squares fit of given scores (of their logits, in a binary score space)."""
        target = scores if self.score_space == "identity" else torch.logit(scores, eps=1e-6)
        system = self._reduce(features, target)
        weights = torch.linalg.lstsq(system[:, :-1], system[:, -1:], driver="gelsd").solution.squeeze(1)
        self.linear.weight.copy_(weights[:-1].unsqueeze(0))
        self.linear.bias.copy_(weights[-1:])

    def _reduce(self, features: Float[Tensor, "n d"], target: Float[Tensor, " n"]) -> Float[Tensor, "m e"]:
        """[U 1 | t], or where that is more than a block the triangle R of its QR: the same least squares, by blocks."""
        step, found = max(self.n_features + 2, BLOCK_VALUES // self.n_features), None
        for block, wanted in zip(features.split(step), target.split(step), strict=True):
            standard = (block.to(torch.float64) - self.get_buffer("mean")) / self.get_buffer("scale")
            ones = torch.ones(len(standard), 1, dtype=torch.float64)
            rows = torch.cat([standard, ones, wanted.to(torch.float64).unsqueeze(1)], dim=1)
            if len(features) > step:
                rows = torch.linalg.qr(rows if found is None else torch.cat([found, rows]), mode="r").R
            found = rows
        assert found is not None
        return found

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n *k"]:
        """Scores in the head's score space, shape (n,) or (n, k); not projected, and blind to the group."""
        logits = self.logits(features)
        if self.score_space != "probability":
            return logits
        return torch.sigmoid(logits) if self.outputs == 1 else torch.softmax(logits, dim=1)

    def predict(self, features: VectorLike | FeatureRows) -> FloatArray:
        """Scores of a NumPy array or tensor of features, shape (n, d), without gradient, as NumPy."""
        blocks = features.blocks() if isinstance(features, FeatureRows) else (features,)
        with torch.no_grad():
            return torch.cat([self(check_features(block, n_features=self.n_features)) for block in blocks]).numpy()

    def save(self, folder: str | Path) -> None:
        """Write ``head.safetensors`` into a folder: settings and weights in one file, whole or not at all.

        Args:
            folder: Made when it is missing. A ``head.json`` that an earlier version left there is removed.
        """
        from safetensors.torch import save

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        settings = {
            "n_features": self.n_features,
            "hidden": self.hidden,
            "score_space": self.score_space,
            "outputs": self.outputs,
        }
        write_whole(target / WEIGHTS, save(self.state_dict(), metadata={"head": json.dumps(settings)}))
        (target / SETTINGS).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path) -> FairHead:
        """Read what `save` wrote, or what an earlier version did, which kept the settings in ``head.json``.

        Raises:
            InputError: There is no head, its files are damaged, or its weights do not fit its settings.
        """
        from safetensors import SafetensorError, safe_open

        place = Path(folder) / WEIGHTS
        if not place.is_file():
            raise InputError(f"folder holds no {WEIGHTS}: {folder}; pass the folder that FairHead.save wrote")
        try:
            with safe_open(place, framework="pt") as file:
                written = (file.metadata() or {}).get("head")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
            settings = json.loads((place.parent / SETTINGS).read_bytes() if written is None else written)
            head = cls(
                settings["n_features"],
                hidden=settings["hidden"],
                score_space=settings["score_space"],
                outputs=settings.get("outputs", 1),  # absent in heads of one output saved before there were others
            )
            head.load_state_dict(tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"folder holds a head that cannot be read: {folder} ({type(error).__name__}: {reason}); save it again"
            ) from error
        return head.eval()


def check_features(
    features: VectorLike, *, n_features: int | None = None, keep_single: bool = False
) -> Float[Tensor, "n d"]:
    """Features as a finite float64 tensor of shape (n, d); float32 stays float32 where that is asked for."""
    values = features.detach().cpu() if isinstance(features, Tensor) else torch.as_tensor(np.asarray(features))
    if values.ndim != 2 or (n_features is not None and values.shape[1] != n_features):
        wanted = "(n, d)" if n_features is None else f"(n, {n_features})"
        raise InputError(f"features must have shape {wanted}; got {tuple(values.shape)}")
    # one NaN or infinite value would spoil the sum, which is found several times as fast as whether each is finite
    if not math.isfinite(float(values.sum())) and not bool(torch.isfinite(values).all()):
        raise InputError("features hold NaN or infinite values; drop those rows or fix the backbone that produced them")
    return values if keep_single and values.dtype == torch.float32 else values.to(torch.float64)

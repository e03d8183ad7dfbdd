"""What every frozen model is: scores, logits and features, without gradient, chunk by chunk."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from auditkit.errors import InputError, ModelChangedError

Task: TypeAlias = Literal["binary", "regression", "multiclass", "features"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

REPEATED_ROWS = 32

TASKS: tuple[Task, ...] = ("binary", "regression", "multiclass")
"""What a caller may say that the output of a model is."""


class FrozenModel(abc.ABC):
    """A model whose weights never change.

    Attributes:
        name: What reports call it.
        task: ``"binary"``, ``"regression"`` or ``"multiclass"``; ``"features"`` where no output could be a score, as
            of a backbone without a head.
        fingerprint: SHA-256 over architecture, preprocessing and weights; equal in every process.
        weights_sha256: SHA-256 over the weights alone, by name; equal in every format that keeps the names of a model's
            tensors (safetensors, .pth, .pt2, a module in Python). Empty for a model that is no set of tensors.
        trust: What was trusted when the model was loaded: "" for nothing, "pickle", or the names of types.
        n_features: Width d of :meth:`features`; 0 for a model that has no layer to read them from.
        chunk_rows: How many rows are computed at a time, which bounds the memory.
    """

    def __init__(
        self,
        *,
        name: str,
        task: Task | None,
        n_features: int,
        chunk_rows: int,
        fingerprint: str,
        weights_sha256: str = "",
        trust: str = "",
    ) -> None:
        if task is not None and task not in TASKS:
            raise InputError(f"task must be one of {', '.join(TASKS)}; got {task!r}")
        self.name = name
        self.task: Task = task or "features"
        self.n_features = n_features
        self.chunk_rows = chunk_rows
        self.fingerprint = fingerprint
        self.weights_sha256 = weights_sha256
        self.trust = trust
        self._repeated: set[str] = set()

    @property
    def needs_all_rows(self) -> bool:
        """Whether a batch must be all rows of the data; only a table of predictions without a key needs them."""
        return False

    @property
    def gives_one_score(self) -> bool:
        """Whether there is one score per row; a model of several classes has features at most that a job can use."""
        return self.task in ("binary", "regression")

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called, in the order of the outputs; empty where the model does not say."""
        return ()

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages, beside torch, whose versions decide what a row turns into."""
        return ()

    @property
    def output_task(self) -> Task:
        """What the outputs of a model of several are, where nobody says."""
        return self.task

    @property
    def gives_probabilities(self) -> bool:
        """Whether it computes probabilities itself, and its logits are made from them."""
        return False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.task}, d={self.n_features}, {self.fingerprint[:12]})"

    @final
    def logits(self, batch: Any) -> Float[Tensor, " n ..."]:
        """Output before the link: shape (n,), or (n, k) for a multiclass model."""
        self.require_scores()
        return self._run(batch, self._chunk_logits, "logits")

    @final
    def scores(self, batch: Any) -> Float[Tensor, " n ..."]:
        """Probability of the positive class, shape (n,); the value for regression; (n, k) for a multiclass model."""
        return self._scores(batch)

    @final
    def features(self, batch: Any) -> Float[Tensor, "n d"]:
        """Activations in front of the last layer, on which a head can be tuned."""
        self.require_features()
        return self._check_width(self._run(batch, self._chunk_features, "features"))

    @final
    def features_and_scores(self, batch: Any) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n ..."]]:
        """`features` and `scores` of the same rows; models that can run once for both."""
        self.require_features()
        self.require_scores()
        return self._both(batch)

    @final
    def require_scores(self) -> None:
        """Raise for a model that has features alone.

        Raises:
            InputError: None of its outputs could be a score.
        """
        if self.task == "features":
            self._refuse_scores()

    def _refuse_scores(self) -> NoReturn:
        raise InputError(
            f"model {self.name!r} has no head and gives features alone; where scores are needed, use a model with a "
            "classification head, or tune one on its features (`auditkit tune`)"
        )

    @final
    def require_features(self) -> None:
        """Raise for a model without features.

        Raises:
            InputError: There is no layer to read them from.
        """
        if self.n_features == 0:
            raise InputError(
                f"model {self.name!r} has no last layer to read features from; only its scores can be used"
            )

    def _check_width(self, features: Tensor) -> Tensor:
        if features.shape[1:] != (self.n_features,):
            raise InputError(
                f"model {self.name!r} must give features of shape (n, {self.n_features}); got {tuple(features.shape)}"
            )
        return features

    @final
    def as_module(self, *, features: bool = False) -> nn.Module:
        """The computation on tensors alone, to be exported: from a prepared batch to scores, or to features.

        Args:
            features: Whether the module gives :meth:`features` instead of :meth:`scores`.

        Raises:
            InputError: The model is not made of torch tensors, or has no features.
        """
        module = getattr(self, "_module", None)
        if not isinstance(module, nn.Module):
            raise InputError(f"model {self.name!r} is no torch model, and has no form as one; export it on its own")
        if features:
            self.require_features()
        else:
            self.require_scores()
        return _Step(module, self._chunk_features if features else self._chunk_scores)

    def _chunk_scores(self, chunk: Any) -> Tensor:
        return self._link(self._chunk_logits(chunk))

    def image_transform(self) -> Callable[[Any], Tensor] | None:
        """What turns an RGB image into a row of a batch; None for a model that does not say."""
        return None

    def placed_module(self) -> nn.Module | None:
        """The module that computes, where it can be moved to another device; None where there is none."""
        return None

    @final
    def check_frozen(self) -> None:
        """Compute the fingerprint again: every parameter and buffer must be bit-identical to when it was loaded.

        Raises:
            ModelChangedError: It differs.
        """
        found = self._measure()
        if found != self.fingerprint:
            raise ModelChangedError(
                f"model {self.name!r} has changed since it was loaded (fingerprint {self.fingerprint[:12]}, now "
                f"{found[:12]}); load it again, and keep whatever trains away from it"
            )

    def _both(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.features(batch), self.scores(batch)

    def _both_at_once(self, batch: Any, step: Callable[[Any], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """`_both` by a step that gives features and logits of a chunk in one pass."""

        def joined(chunk: Any) -> Tensor:
            features, logits = step(chunk)
            return torch.cat([self._check_width(features), logits.reshape(len(features), -1)], dim=1)

        found = self._run(batch, joined, "features and logits")
        features, logits = found[:, : self.n_features], found[:, self.n_features :]
        return features, self._link(logits if self.task == "multiclass" else logits[:, 0])

    def _scores(self, batch: Any) -> Tensor:
        return self._link(self.logits(batch))  # checked before the link, which would turn an infinite logit into a 1.0

    def _link(self, logits: Tensor) -> Tensor:
        if self.task == "binary":
            return torch.sigmoid(logits)
        return logits if self.task == "regression" else torch.softmax(logits, dim=1)

    def _run(self, batch: Any, step: Callable[[Any], Tensor], what: str) -> Tensor:
        parts: list[Tensor] = []
        n_rows = 0
        with torch.no_grad():
            for chunk in self._chunks(batch):
                n_rows += self._count(chunk)
                parts.append(step(chunk))
                if what not in self._repeated:
                    self._check_repeats(chunk, step, what)
        if not parts:
            raise InputError("batch must have at least one row; got none")
        return self._checked(torch.cat(parts), what, n_rows)

    def _check_repeats(self, chunk: Any, step: Callable[[Any], Tensor], what: str) -> None:
        """Ask twice about the first rows, once in a model's life: what samples or drops out answers differently."""
        head = self._first_rows(chunk, REPEATED_ROWS)
        first, second = step(head).double(), step(head).double()
        if not torch.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise InputError(
                f"model {self.name!r} gave other {what} when it was asked twice about the same rows (largest "
                f"difference {float((first - second).abs().max()):.3g}); a frozen model repeats itself: turn dropout, "
                "sampling and random augmentation off"
            )
        self._repeated.add(what)

    def _count(self, chunk: Any) -> int:
        """Rows of one chunk."""
        return len(chunk)

    def _first_rows(self, chunk: Any, n: int) -> Any:
        """The first rows of one chunk, as a chunk."""
        return chunk[:n]

    @abc.abstractmethod
    def _measure(self) -> str:
        """The fingerprint of the model as it is now."""

    def _checked(self, output: Tensor, what: str, n_rows: int) -> Tensor:
        if len(output) != n_rows:
            raise InputError(
                f"model {self.name!r} gave {len(output)} {what} for {n_rows} rows; it must give one per row"
            )
        bad = (~torch.isfinite(output)).flatten(1).any(dim=1) if output.ndim > 1 else ~torch.isfinite(output)
        if bad.any():
            first = int(bad.nonzero()[0, 0])
            raise InputError(
                f"model {self.name!r} gave NaN or infinite {what} in {int(bad.sum())} rows (first at row {first}); "
                "check those rows of the batch"
            )
        return output

    @abc.abstractmethod
    def _chunks(self, batch: Any) -> Iterator[Any]:
        """Check the batch and yield what the model reads, at most ``chunk_rows`` rows at a time."""

    @abc.abstractmethod
    def _chunk_logits(self, chunk: Any) -> Tensor:
        """Logits of one chunk."""

    @abc.abstractmethod
    def _chunk_features(self, chunk: Any) -> Tensor:
        """Features of one chunk, shape (rows, d)."""


class _Step(nn.Module):
    """One step of a frozen model, with the tensors that it reads."""

    def __init__(self, module: nn.Module, step: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.step = step

    def forward(self, chunk: Tensor) -> Tensor:
        """Scores or features of one prepared batch."""
        return self.step(chunk)


def freeze(module: ModuleT) -> ModuleT:
    """Put a module into evaluation mode for good and take its parameters out of every gradient."""
    module.eval()
    for parameter in module.parameters():  # TorchScript has no requires_grad_ of its own, and copies with a history
        parameter.detach_().requires_grad_(False)
    return module


def hash_description(describe: Mapping[str, Any]) -> str:
    """SHA-256 over a description made of JSON values."""
    return hashlib.sha256(json.dumps(describe, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def fingerprint_of(module: nn.Module, *, describe: Mapping[str, Any]) -> str:
    """SHA-256 over a description and every tensor of a module (name, type, shape and bytes)."""
    digest = hashlib.sha256(json.dumps(describe, sort_keys=True, ensure_ascii=True).encode())
    _hash_tensors(digest, tensors_of(module))
    return digest.hexdigest()


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over tensors alone: name, type, shape and bytes of each, in the order of their names."""
    digest = hashlib.sha256()
    _hash_tensors(digest, tensors)
    return digest.hexdigest()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of a module, also the buffers that a state_dict leaves out."""
    return {**dict(module.named_buffers(remove_duplicate=False)), **state_tensors(module)}


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What a state_dict holds of tensors: what every format of a model keeps."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _hash_tensors(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        header = f"\n{name}|{tensor.dtype}|{tuple(tensor.shape)}|"
        digest.update(header.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def tensor_chunks(batch: Tensor, *, module: nn.Module, chunk_rows: int) -> Iterator[Tensor]:
    """Yield slices of a tensor on the device and with the float type of the module's first parameter."""
    first = next(module.parameters(), torch.empty(0))
    for start in range(0, len(batch), chunk_rows):
        yield batch[start : start + chunk_rows].to(device=first.device, dtype=first.dtype)


def padded(chunk: Tensor, rows: int) -> Tensor:
    """A chunk brought to a fixed number of rows by repeating its last one; for graphs of a fixed batch size."""
    missing = rows - len(chunk)
    return chunk if missing <= 0 else torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])])


def one_per_row(logits: Tensor, *, task: Task, name: str) -> Tensor:
    """Bring raw outputs to (n,), or leave (n, k) for a multiclass model; two columns become a log-odds."""
    if task == "multiclass":
        if logits.ndim == 2 and logits.shape[1] > 1:
            return logits
        raise InputError(f"model {name!r} is multiclass and must give logits (n, k), k ≥ 2; got {tuple(logits.shape)}")
    if logits.ndim == 2 and logits.shape[1] == 2 and task == "binary":
        return logits[:, 1] - logits[:, 0]
    if logits.ndim == 2 and logits.shape[1] == 1:
        return logits[:, 0]
    if logits.ndim == 1:
        return logits
    raise InputError(
        f"model {name!r} is {task} and must give one output per row, shape (n,) or (n, 1); got {tuple(logits.shape)}; "
        'a model of several outputs needs task="multiclass", or output=, the number of the one that is its score'
    )

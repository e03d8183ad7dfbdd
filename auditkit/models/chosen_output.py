"""One output of a frozen model that has several, as the one score per row that an audit needs.

softmax:   score = softmax(l)_k        logit = l_k − log Σ_{j≠k} exp l_j
binary:    score = 1 / (1 + exp −l_k)  logit = l_k
regression: score = l_k
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor, nn

from auditkit.errors import InputError
from auditkit.models.base import FrozenModel, Task, hash_description


@final
class ChosenOutput(FrozenModel):
    """A frozen model whose score is one of its outputs.

    Args:
        model: A frozen model that was loaded as multiclass.
        output: The output's number, from 0, or the name of a class, where the model knows its classes' names.
        task: What the outputs are: ``"multiclass"``, the logits of classes that exclude each other, of which the
            score is the probability of one; ``"binary"``, the logits of questions of their own; ``"regression"``,
            values.

    Raises:
        InputError: The model has no such output.
    """

    def __init__(self, model: FrozenModel, output: int | str, *, task: Task = "multiclass") -> None:
        self._model = model
        self._output = _number(model, output)
        self._of_classes = task == "multiclass" or model.gives_probabilities
        self._description = {"kind": "chosen output", "output": self._output, "task": task}
        super().__init__(
            name=f"{model.name}[{output}]",
            task="regression" if task == "regression" else "binary",
            n_features=model.n_features,
            chunk_rows=model.chunk_rows,
            fingerprint=self._measure(),
            weights_sha256=model.weights_sha256,
            trust=model.trust,
        )

    @property
    def needs_all_rows(self) -> bool:
        """As the model."""
        return self._model.needs_all_rows

    @property
    def packages(self) -> tuple[str, ...]:
        """As the model."""
        return self._model.packages

    @property
    def _module(self) -> nn.Module | None:
        """What `as_module` exports, where the model has one."""
        return getattr(self._model, "_module", None)

    def image_transform(self) -> Callable[[Any], Tensor] | None:
        """As the model."""
        return self._model.image_transform()

    def placed_module(self) -> nn.Module | None:
        """As the model."""
        return self._model.placed_module()

    def _measure(self) -> str:
        return hash_description({**self._description, "model": self._model._measure()})

    def _chunks(self, batch: Any) -> Iterator[Any]:
        return self._model._chunks(batch)

    def _count(self, chunk: Any) -> int:
        return self._model._count(chunk)

    def _first_rows(self, chunk: Any, n: int) -> Any:
        return self._model._first_rows(chunk, n)

    def _chunk_features(self, chunk: Any) -> Tensor:
        return self._model._chunk_features(chunk)

    def _both(self, batch: Any) -> tuple[Tensor, Tensor]:
        if not self._of_classes:
            return super()._both(batch)
        features, scores = self._model.features_and_scores(batch)
        return features, self._column(scores)

    def _scores(self, batch: Any) -> Tensor:
        if not self._of_classes:
            return super()._scores(batch)
        return self._run(batch, self._chunk_scores, "scores")

    def _chunk_scores(self, chunk: Any) -> Tensor:
        if not self._of_classes:
            return super()._chunk_scores(chunk)
        return self._column(self._model._chunk_scores(chunk))

    def _chunk_logits(self, chunk: Any) -> Tensor:
        logits = self._model._chunk_logits(chunk)
        chosen = self._column(logits)
        if not self._of_classes:
            return chosen
        others = torch.cat([logits[:, : self._output], logits[:, self._output + 1 :]], dim=1)
        return chosen - torch.logsumexp(others, dim=1)

    def _column(self, values: Tensor) -> Tensor:
        if values.ndim != 2:
            raise InputError(f"model {self._model.name!r} gives one score per row already; leave output out")
        if self._output >= values.shape[1]:
            raise InputError(
                f"output is {self._output}, and model {self._model.name!r} has the outputs 0 to {values.shape[1] - 1}"
            )
        return values[:, self._output]


def _number(model: FrozenModel, output: int | str) -> int:
    """The place of an output among all."""
    names = model.class_names
    if isinstance(output, str):
        if output not in names:
            known = f"its classes are {', '.join(names[:20])}{', …' * (len(names) > 20)}" if names else "it names none"
            raise InputError(
                f"output {output!r} is no class of model {model.name!r}: {known}; give a number, from 0, or a class"
            )
        return names.index(output)
    if output < 0 or (names and output >= len(names)):
        last = f" to {len(names) - 1}" if names else ""
        raise InputError(f"output must be the number of an output of model {model.name!r}, from 0{last}; got {output}")
    return output

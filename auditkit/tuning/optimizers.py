"""Steps of AdamW by torch's fused kernel alone.

`torch.optim.AdamW.step` spends several times as long on hooks, profiling and sorting its state as its kernel spends on
a small head. The state stays where it is, so that it is saved and restored as always.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class FusedSteps:
    """The steps that an optimiser would make: the same kernel on the same state.

    Args:
        optimizer: With one group of parameters on the host, all of which have a gradient before every step.
    """

    def __init__(self, optimizer: torch.optim.AdamW) -> None:
        self.optimizer = optimizer
        self._state: Any = None
        self._lists: tuple[list[Tensor], ...] = ()

    def __call__(self) -> None:
        """One step."""
        (settings,), state = self.optimizer.param_groups, self.optimizer.state
        weights: list[Tensor] = settings["params"]
        if state is not self._state:  # the first step, or the first after the state was restored
            self._take_up(state, weights)
        plain, averages, squares, steps = self._lists
        gradients: Any = [weight.grad for weight in weights]
        beta1, beta2 = settings["betas"]
        steps[0].add_(1)
        # the public way to the kernel, `torch.optim.adamw.adamw`, takes more than twice as long
        torch._fused_adamw_(  # type: ignore[reportPrivateImportUsage]
            plain, gradients, averages, squares, [], steps, lr=settings["lr"], beta1=beta1, beta2=beta2,
            weight_decay=settings["weight_decay"], eps=settings["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip

    def _take_up(self, state: Any, weights: list[Tensor]) -> None:
        self._state = state
        for weight in weights:
            kept = state[weight]
            if not kept:  # as the optimiser's own first step would
                kept["step"] = torch.zeros(())
                kept["exp_avg"], kept["exp_avg_sq"] = (torch.zeros_like(weight.detach()) for _ in range(2))
            kept["step"] = state[weights[0]]["step"]  # one counter for all, which one operation moves on
        parts = ([state[weight][name] for weight in weights] for name in ("exp_avg", "exp_avg_sq", "step"))
        self._lists = ([weight.detach() for weight in weights], *parts)

"""The penalty of fairret, where it is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from auditkit._extras import import_extra
from auditkit.baselines.base import FitContext, protected_columns, require_binary
from auditkit.baselines.penalty import PenalizedHead
from auditkit.baselines.thresholds import nearest_constraint
from auditkit.finetuning import HeadRows, prediction_loss
from auditkit.heads import FairHead

STATISTICS = {
    "demographic_parity": ("PositiveRate",),
    "true_positive_rate_parity": ("TruePositiveRate",),
    "equalized_odds": ("TruePositiveRate", "FalsePositiveRate"),
}


class FairretPenalty(PenalizedHead):
    """A head on the features and the group, trained with fairret's NormLoss, its weight by cross-validation."""

    name = "fairret"
    title = "fairret penalty"
    description = "a head on the features and the group, trained with fairret's NormLoss, its weight cross-validated"

    def __init__(self) -> None:
        super().__init__(blind=False)

    def make_loss(self, context: FitContext, weight: float) -> Any:
        """Prediction loss + λ·Σ of the norm losses of the statistics that the criteria are about."""
        require_binary(context)
        losses = import_extra("fairret.loss")
        statistics = import_extra("fairret.statistic")
        names = STATISTICS[nearest_constraint(context.criteria)]
        terms = [(losses.NormLoss(getattr(statistics, name)()), name != "PositiveRate") for name in names]
        columns = protected_columns(context.criteria)
        as_logit = context.config.score_space == "logit"

        def loss(head: FairHead, rows: HeadRows) -> Tensor:
            scores = head(rows.features)
            sensitive, labels = _one_hot(rows, columns), rows.labels.unsqueeze(1)
            penalty = sum(
                term(scores.unsqueeze(1), sensitive, *((labels,) if needs else ()), pred_as_logit=as_logit)
                for term, needs in terms
            )
            return prediction_loss(scores, rows.labels, context.config) + weight * penalty

        return loss


def _one_hot(rows: HeadRows, columns: tuple[str, ...]) -> Tensor:
    """One column per group among these rows, built once for the same groups."""
    key = ("one-hot", columns)
    if key not in rows.derived:
        index = torch.as_tensor(rows.groups.cells(columns).index, dtype=torch.int64)
        rows.derived[key] = torch.nn.functional.one_hot(index).to(rows.labels.dtype)
    return rows.derived[key]

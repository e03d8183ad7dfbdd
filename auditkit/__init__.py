"""auditkit: audit pretrained models for conditional parity and equalized residuals, and enforce both.

Names are imported when they are first used, so that ``import auditkit`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditkit.affine_criteria import AffineCriterion
    from auditkit.auditing import AuditResult, audit, evaluate_moments
    from auditkit.comparison import CompareConfig, Comparison, compare
    from auditkit.config import AuditFile, load_config, make_config, sample_config
    from auditkit.criteria import (
        ECP,
        EER,
        Criterion,
        demographic_parity,
        equal_opportunity,
        equalized_odds,
    )
    from auditkit.datasets import from_frame, load_table, split_rows
    from auditkit.deployment import Calibration, calibrate
    from auditkit.enforcement import project, verify_certificate
    from auditkit.errors import AuditkitError
    from auditkit.feature_cache import extract_features
    from auditkit.finetuning import TuneConfig, tune_head
    from auditkit.groups import Groups
    from auditkit.heads import FairHead
    from auditkit.jobs import run_audit, run_compare, run_tune
    from auditkit.layer import FairnessLayer
    from auditkit.models import load_model
    from auditkit.moments import Moments
    from auditkit.observations import take_moments
    from auditkit.online_enforcer import OnlineEnforcer
    from auditkit.stream_history import describe_stream
    from auditkit.what_if import profile_scores

_HOMES = {
    "AffineCriterion": "affine_criteria",
    "AuditFile": "config",
    "AuditResult": "auditing",
    "AuditkitError": "errors",
    "Calibration": "deployment",
    "CompareConfig": "comparison",
    "Comparison": "comparison",
    "Criterion": "criteria",
    "ECP": "criteria",
    "EER": "criteria",
    "FairHead": "heads",
    "FairnessLayer": "layer",
    "Groups": "groups",
    "Moments": "moments",
    "OnlineEnforcer": "online_enforcer",
    "TuneConfig": "finetuning",
    "audit": "auditing",
    "calibrate": "deployment",
    "compare": "comparison",
    "demographic_parity": "criteria",
    "describe_stream": "stream_history",
    "equal_opportunity": "criteria",
    "equalized_odds": "criteria",
    "evaluate_moments": "auditing",
    "extract_features": "feature_cache",
    "from_frame": "datasets",
    "load_config": "config",
    "load_model": "models",
    "load_table": "datasets",
    "make_config": "config",
    "profile_scores": "what_if",
    "project": "enforcement",
    "run_audit": "jobs",
    "run_compare": "jobs",
    "run_tune": "jobs",
    "sample_config": "config",
    "split_rows": "datasets",
    "take_moments": "observations",
    "tune_head": "finetuning",
    "verify_certificate": "enforcement",
}

__all__ = [
    "AffineCriterion",
    "AuditFile",
    "AuditResult",
    "AuditkitError",
    "Calibration",
    "CompareConfig",
    "Comparison",
    "Criterion",
    "ECP",
    "EER",
    "FairHead",
    "FairnessLayer",
    "Groups",
    "Moments",
    "OnlineEnforcer",
    "TuneConfig",
    "audit",
    "calibrate",
    "compare",
    "demographic_parity",
    "describe_stream",
    "equal_opportunity",
    "equalized_odds",
    "evaluate_moments",
    "extract_features",
    "from_frame",
    "load_config",
    "load_model",
    "load_table",
    "make_config",
    "profile_scores",
    "project",
    "run_audit",
    "run_compare",
    "run_tune",
    "sample_config",
    "split_rows",
    "take_moments",
    "tune_head",
    "verify_certificate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'auditkit' has no attribute {name!r}")
    return getattr(import_module(f"auditkit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""`compare`: several methods on the same splits, judged on pooled test predictions at score and at decision level."""

from __future__ import annotations

from auditkit.comparison.design import Design, describe_design
from auditkit.comparison.judging import MethodRun, compare_on_split, make_context, train_reference
from auditkit.comparison.running import compare, compare_at
from auditkit.comparison.settings import DEFAULT_METHODS, DEFAULT_SPLIT, REFERENCE, CompareConfig
from auditkit.comparison.summary import SCHEMA, Comparison

__all__ = [
    "DEFAULT_METHODS",
    "DEFAULT_SPLIT",
    "REFERENCE",
    "SCHEMA",
    "CompareConfig",
    "Comparison",
    "Design",
    "MethodRun",
    "compare",
    "compare_at",
    "compare_on_split",
    "describe_design",
    "make_context",
    "train_reference",
]

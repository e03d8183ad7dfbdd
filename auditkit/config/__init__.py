"""The audit file: what is audited, on which data, and what is tuned, written before any result is seen.

The file is YAML, read with the safe loader; nothing in it is executed or filled in from the environment.
"""

from __future__ import annotations

from auditkit.config.audit_file import AuditFile, CriterionSpec, DataSpec, SplitSpec, TuneSpec
from auditkit.config.reading import config_schema, example_config, load_config, make_config, sample_config
from auditkit.config.starting import config_for_model, config_for_table, load_request
from auditkit.config.stream_file import StreamFile, load_stream_file

__all__ = [
    "AuditFile",
    "CriterionSpec",
    "DataSpec",
    "SplitSpec",
    "StreamFile",
    "TuneSpec",
    "config_for_model",
    "config_for_table",
    "config_schema",
    "example_config",
    "load_config",
    "load_request",
    "load_stream_file",
    "make_config",
    "sample_config",
]

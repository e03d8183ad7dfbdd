"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AuditPath = Annotated[Path, typer.Argument(metavar="FILE", help="The audit file (YAML); `auditkit init` writes one.")]
RequestPath = Annotated[
    Path, typer.Argument(metavar="FILE", help="An audit file (YAML), or a table of predictions (csv, parquet, arrow).")
]
RunPath = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of the run; by default runs/<name>.")]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="text|json|md|html|junit",
        help="What to print: text for people, json (of compare: the comparison), md, the html report, junit.",
    ),
]
_TABLE = "For a table of predictions without an audit file"
Attributes = Annotated[
    list[str] | None,
    typer.Option("--attributes", metavar="COLUMN", help="Protected; repeatable; a*b crosses.", rich_help_panel=_TABLE),
]
Strata = Annotated[
    list[str] | None,
    typer.Option("--strata", metavar="COLUMN", help="Legitimate conditions; repeatable.", rich_help_panel=_TABLE),
]
Criteria = Annotated[
    list[str] | None,
    typer.Option(
        "--criteria",
        metavar="FAMILY",
        help="ECP (by default), EER, equalized_odds, equal_opportunity; repeatable.",
        rich_help_panel=_TABLE,
    ),
]
Score = Annotated[
    list[str] | None,
    typer.Option(
        "--score", metavar="COLUMN", help="Scores; repeatable, for a model of several outputs.", rich_help_panel=_TABLE
    ),
]
Label = Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Outcomes.", rich_help_panel=_TABLE)]
PositiveLabel = Annotated[
    str | None,
    typer.Option("--positive-label", metavar="VALUE", help="The outcome that counts as 1.", rich_help_panel=_TABLE),
]
Tolerance = Annotated[
    float | None, typer.Option("--tolerance", help="Largest gap accepted; 0.05.", rich_help_panel=_TABLE)
]
Threshold = Annotated[
    str | None,
    typer.Option(
        "--threshold",
        metavar="NUMBER|RULE",
        help='Scores from it are positive; 0.5. Or "median", "top 100", "top 5%"; of several outputs "highest".',
        rich_help_panel=_TABLE,
    ),
]
Weight = Annotated[str | None, typer.Option("--weight", metavar="COLUMN", help="Row weights.", rich_help_panel=_TABLE)]
Decision = Annotated[
    str | None,
    typer.Option("--decision", metavar="COLUMN", help="Decisions, in place of --threshold.", rich_help_panel=_TABLE),
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="COLUMN", help="Whom a row is of, where several are.", rich_help_panel=_TABLE),
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", metavar="duckdb|spark|pandas", help="What reads the table.", rich_help_panel=_TABLE),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed, in place of the audit file's.")]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Folder that keeps features."),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep no features.")]

"""All 45,222 rows of UCI Adult as the table to audit with the bundled sample model.

    python -m experiments.adult_full.prepare --data DIR --out DIR

The sample model was trained on 30,000 of these rows, so this audit describes it on the rows it knows; the bundled audit
of its 15,222 held-out rows is the one that says how it does on new rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.training import copy_audit_file, main, real_file
from sample_models.adult_mlp.build import RECIPE, read_adult, write_json


def prepare(data: Path, out: Path) -> dict[str, Any]:
    """Write the table and the audit file."""
    frame = read_adult(real_file(data, "adult.parquet"))
    copy_audit_file(__file__, out)
    frame.to_parquet(out / "adult.parquet", index=False)
    facts = {"rows": len(frame), "trained_on": RECIPE.train_rows, "audited_training_rows": RECIPE.train_rows}
    write_json(out / "prepared.json", facts)
    return facts


if __name__ == "__main__":
    main(prepare, __doc__)

"""The README's own code and audit file, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import auditkit as ak
from auditkit.cli import main

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_python_blocks_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), space)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ECP(sex) 0.18")
    assert lines[0].split()[-1] != "pass"
    assert space["result"].certificate.max_violation <= 1e-7  # type: ignore[attr-defined]
    assert space["after"].gap < 0.06  # type: ignore[attr-defined]
    assert space["calibration"].is_guaranteed  # type: ignore[attr-defined]
    assert space["logits"].grad is not None  # type: ignore[attr-defined]


def test_the_audit_file_works_on_the_table_it_describes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sex": rng.choice(["f", "m"], 800), "region": rng.choice(["n", "s"], 800)})
    frame["score"] = rng.random(800)
    frame["hired"] = rng.integers(0, 2, 800)
    frame.to_csv(tmp_path / "predictions.csv", index=False)
    (tmp_path / "audit.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["audit", str(tmp_path / "audit.yaml"), "--out", str(tmp_path / "run")])
    assert stopped.value.code in (0, 1, 3)
    assert (tmp_path / "run" / "report.html").exists()


def test_every_file_that_is_linked_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z-]+)", TEXT)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_public_names_in_the_readme_exist() -> None:
    for name in set(re.findall(r"\bak\.(\w+)", TEXT)):
        assert name in ak.__all__, name


def test_every_file_that_the_docs_link_exists() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"

"""The code of docs/tuning.md, run as it stands: a plain torch loop, scikit-learn, Lightning."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from auditkit.constraints import measure_gaps

TEXT = (Path(__file__).parent.parent / "docs" / "tuning.md").read_text(encoding="utf-8")


def run_blocks(name: str, space: dict[str, Any]) -> None:
    for block in re.findall(rf"^```{name}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/tuning.md", "exec"), space)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    space: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        run_blocks("python", space)
        assert Path("runs/tune.safetensors").is_file()
    return space


def test_plain_torch_loop(space: dict[str, Any]) -> None:
    gaps = measure_gaps(space["fair"].double(), space["groups"], space["criteria"])
    assert gaps["ECP(sex)"] <= 0.02 + 1e-6
    assert space["layer"].suppressed_share > 0
    assert float(space["loss"].detach()) < 0.69


def test_frontier_and_estimator(space: dict[str, Any]) -> None:
    assert [point.tolerance for point in space["frontier"].points] == [0.2, 0.1, 0.05, 0.02]
    assert space["model"].score(space["features"], space["labels"]) > 0.6


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs pip install 'auditkit[lightning]'")
def test_lightning(space: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    from auditkit.models.torchvision_compat import ensure_torchvision

    ensure_torchvision()  # torchmetrics imports it
    run_blocks("python lightning", space)
    capsys.readouterr()
    module, groups = space["module"], space["groups"]
    scores = space["torch"].sigmoid(module.network(space["x"]).squeeze(1)).detach()
    fair = module.layer(scores, groups)
    assert measure_gaps(fair.double(), groups, space["criteria"])["ECP(sex)"] <= 0.02 + 1e-6
    assert space["trainer"].current_epoch == 20
    assert float(space["trainer"].callback_metrics["loss"]) < 0.7

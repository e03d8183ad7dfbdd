"""Rows spread over processes, projected as one batch; the processes are started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import auditkit as ak
from auditkit.errors import InputError
from auditkit.projection import Divergence

ROOT = Path(__file__).parent.parent
CASES = {
    "parity": ([ak.ECP("a", tolerance=0.01)], None),
    "bounded": ([ak.ECP("a", tolerance=0.01)], (-1.0, 1.0)),
    "residuals": ([ak.EER("a", tolerance=0.01)], (-1.0, 1.5)),
    "odds": ([ak.equalized_odds("a", tolerance=0.01)], None),
    "several": ([ak.ECP("a", tolerance=0.01), ak.EER("b", tolerance=0.1)], (-1.0, 1.0)),
    "inferred": ([ak.ECP("p", tolerance=0.01)], None),
    "log-loss": ([ak.ECP("a", tolerance=0.01), ak.ECP("b", tolerance=0.1)], (-1.0, 1.0)),
}


def make_rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    n = 200
    return {
        "a": np.sort(rng.integers(0, 5, n)),  # sorted: most processes have rows of some groups only
        "b": rng.choice(["x", "y"], n),
        "p": rng.dirichlet([1, 1, 1], n),
        "scores": rng.normal(size=n),
        "labels": rng.integers(0, 2, n).astype(float),
        "upstream": rng.normal(size=n),
        "weights": rng.uniform(0.5, 2, n),
    }


def run_layer(rows: dict[str, np.ndarray], name: str, weighted: bool, group: object) -> dict[str, list[float] | float]:
    """Forward, backward and backward once more."""
    criteria, bounds = CASES[name]
    groups = ak.Groups({"a": rows["a"], "b": rows["b"]}, probabilities={"p": rows["p"]})
    scores = torch.tensor(rows["scores"], requires_grad=True)
    divergence: Divergence = "log_loss" if name == "log-loss" else "euclidean"
    layer = ak.FairnessLayer(criteria, bounds=bounds, divergence=divergence, process_group=group)
    output = layer(scores, groups, rows["labels"], weights=rows["weights"] if weighted else None)
    upstream = torch.tensor(rows["upstream"], requires_grad=True)
    (gradient,) = torch.autograd.grad(output, scores, upstream, create_graph=True)
    second = torch.zeros(0)  # by log-loss there is none
    if divergence == "euclidean":
        (second,) = torch.autograd.grad(gradient, upstream, torch.ones_like(gradient))
    return {
        "output": output.tolist(),
        "gradient": gradient.tolist(),
        "second": second.tolist(),
        "share": layer.suppressed_share or 0.0,
    }


def work(folder: Path) -> None:
    """What every process does: its part of the rows, and a result file."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=int(os.environ["RANK"]),
                            world_size=int(os.environ["WORLD_SIZE"]))  # fmt: skip
    rank, size = dist.get_rank(), dist.get_world_size()
    rows = make_rows()
    # parts of unequal size, in order; one of four processes has no row at all
    edges = np.linspace(0, 1, size + 1) ** 2 * len(rows["scores"])
    if size > 2:
        edges[1] = 0
    part = np.arange(int(edges[rank]), int(edges[rank + 1]))
    mine = {key: values[part] for key, values in rows.items()}
    results = {
        f"{name} {weighted}": run_layer(mine, name, weighted, dist.group.WORLD)
        for name in CASES
        for weighted in (False, True)
    }
    (folder / f"{rank}.json").write_text(json.dumps({"rows": part.tolist(), "results": results}))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_equal_one_process(processes: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, "-m", "tests.test_distributed", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    parts = [tmp_path / f"{rank}.json" for rank in range(processes)]
    assert all(part.exists() for part in parts), done.stderr[-3000:]
    contents = [json.loads(part.read_text()) for part in parts]
    rows = make_rows()
    for name in CASES:
        for weighted in (False, True):
            expected = run_layer(rows, name, weighted, None)
            for content in contents:
                found, mine = content["results"][f"{name} {weighted}"], content["rows"]
                for key in ("output", "gradient", *(("second",) if expected["second"] else ())):
                    np.testing.assert_allclose(found[key], np.array(expected[key])[mine], atol=1e-12)
                assert found["share"] == pytest.approx(expected["share"], abs=1e-12)


def test_a_group_of_one_process_is_the_whole_batch(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        rows = make_rows()
        alone = run_layer(rows, "several", True, None)
        grouped = run_layer(rows, "several", True, dist.group.WORLD)
        np.testing.assert_allclose(grouped["output"], alone["output"], atol=1e-14)
        np.testing.assert_allclose(grouped["gradient"], alone["gradient"], atol=1e-14)
        layer = ak.FairnessLayer(ak.ECP("a", tolerance=0.1), process_group=dist.group.WORLD)
        with pytest.raises(InputError, match=r"prepare needs one criterion .* process group"):
            layer.prepare(ak.Groups({"a": rows["a"]}))
    finally:
        dist.destroy_process_group()


def test_without_torch_distributed_the_remedy_is_named() -> None:
    with pytest.raises(InputError, match=r"process_group needs torch.distributed; call .*init_process_group"):
        ak.FairnessLayer(ak.ECP("a", tolerance=0.1), process_group=object())


if __name__ == "__main__":
    work(Path(sys.argv[1]))

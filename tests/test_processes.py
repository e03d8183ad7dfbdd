"""The command line under torchrun: two processes share the features, the first one writes and says the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from auditkit.feature_cache import list_entries
from tests.transformer_folders import save, vit

ROOT = Path(__file__).parents[1]
N = 200
COUNTED = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import auditkit.images
from auditkit.cli import main
from auditkit.models import TransformerModel
rows, plain = [], TransformerModel._chunk_both
def counting(self, chunk, **options):
    rows.append(len(chunk))
    return plain(self, chunk, **options)
TransformerModel._chunk_both = counting
hashed, plain_hash = [], auditkit.images.hash_file
auditkit.images.hash_file = lambda path: hashed.append(path) or plain_hash(path)
try:
    main(sys.argv[2:])
finally:
    found = json.dumps([sum(rows), len(hashed)])
    Path(sys.argv[1], os.environ.get("RANK", "alone") + ".json").write_text(found)
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    save(folder / "vit", vit())
    rng = np.random.default_rng(0)
    for number in range(N):
        Image.fromarray(rng.integers(0, 255, (36, 36, 3), np.uint8)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(N)]
    frame = pd.DataFrame({"file": names, "sex": rng.choice(["F", "M"], N), "y": rng.integers(0, 2, N)})
    frame.to_csv(folder / "faces.csv", index=False)
    (folder / "audit.yaml").write_text("""
data: {path: faces.csv, images: {column: file, batch_size: 8}, attributes: [sex], label: y}
model: vit
criteria: [{family: ECP, attributes: sex, tolerance: 0.05}]
tune: {epochs: 3}
""")
    (folder / "counted.py").write_text(COUNTED)
    return folder


def start(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    command = [sys.executable, *torchrun, *map(str, arguments)]
    known = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=known, check=False)


@pytest.mark.slow
def test_two_processes_share_the_features_and_one_writes_the_run(faces: Path, tmp_path: Path) -> None:
    for name, processes in (("alone", 0), ("two", 2)):
        request = ("tune", faces / "audit.yaml", "--out", tmp_path / name, "--cache", tmp_path / f"{name}.cache")
        done = start(faces / "counted.py", tmp_path, *request, processes=processes)
        assert done.stdout.count("report: ") == 1, done.stderr[-2000:]
    counts = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("alone", "0", "1")}
    rows = {name: computed for name, (computed, _) in counts.items()}
    assert {name: hashed for name, (_, hashed) in counts.items()} == {"alone": N, "0": N // 2, "1": N // 2}
    assert N <= rows["alone"] < N + 80  # and the first rows again, to see that the model repeats itself
    assert all(64 <= rows[rank] <= 128 + 80 for rank in ("0", "1"))
    for file in ("audit.json", "audit_after.json"):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    assert [entry.state for entry in list_entries(tmp_path / "two.cache")] == ["whole"]
    assert list_entries(tmp_path / "two.cache")[0].key == list_entries(tmp_path / "alone.cache")[0].key
    images = [json.loads((tmp_path / name / "run.json").read_text())["data"] for name in ("alone", "two")]
    assert images[0] == images[1]


@pytest.mark.slow
def test_a_mistake_is_told_once(faces: Path, tmp_path: Path) -> None:
    done = start("-m", "auditkit", "tune", faces / "other.yaml", "--out", tmp_path / "run")
    assert done.stderr.count("auditkit: there is no audit file") == 1
    assert "auditkit: process" not in done.stderr
    done = start("-m", "auditkit", "audit", faces / "audit.yaml", "--out", tmp_path / "run", "--no-cache")
    assert done.stderr.count("several processes share their work through the cache of features; let it be kept") == 1
    done = start("-m", "auditkit", "audit", faces / "audit.yaml", "--out", faces)
    assert done.stderr.count("holds something that is not a run") == 1
    assert "gloo" not in done.stderr.lower().replace("gloo_socket", "")

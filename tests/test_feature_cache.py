"""The feature cache on a model so cheap that it can be killed, raced and starved of disk many times over."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from auditkit._locks import hold_lock, try_lock
from auditkit.errors import InputError
from auditkit.feature_cache import (
    ExtractionConfig,
    cache_folder,
    entries,
    extract_features,
    extract_outputs,
    find_key,
    list_entries,
    remove_entries,
)
from auditkit.feature_cache.folders import lock_path
from auditkit.models import load_model
from auditkit.models.torch_module import TorchModule

ROOT = Path(__file__).parents[1]
ROWS, WIDTH, BATCH = 1_000, 5, 8


def cheap_model(seed: int = 0) -> TorchModule:
    torch.manual_seed(seed)
    return TorchModule(nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)))


def cheap_rows(n: int = ROWS) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)


def extract(cache: Path | None, model: TorchModule | None = None, n: int = ROWS, **options: Any) -> np.ndarray:
    return extract_features(model or cheap_model(), cheap_rows(n), cache_dir=cache, batch_size=BATCH, **options)


def entry_in(cache: Path) -> Path:
    (folder,) = [path for path in cache.iterdir() if path.is_dir()]
    return folder


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every pass of the model."""
    seen: list[int] = []
    plain = TorchModule._chunk_features

    def counting(self: TorchModule, chunk: torch.Tensor) -> torch.Tensor:
        seen.append(len(chunk))
        return plain(self, chunk)

    monkeypatch.setattr(TorchModule, "_chunk_features", counting)
    return seen


def test_features_are_the_models_and_read_only(tmp_path: Path) -> None:
    found = extract(tmp_path)
    np.testing.assert_allclose(found, cheap_model().features(cheap_rows()).numpy(), rtol=1e-5, atol=1e-6)
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float32
    assert not found.flags.writeable
    assert np.array_equal(np.load(entry_in(tmp_path) / "features.npy"), found)
    assert not list(entry_in(tmp_path).glob("*.part"))


def test_without_a_cache_the_bits_are_the_same(tmp_path: Path) -> None:
    assert np.array_equal(extract(None), extract(tmp_path))


def test_second_call_runs_no_model(tmp_path: Path, counted: list[int]) -> None:
    first = extract(tmp_path)
    counted.clear()
    assert np.array_equal(extract(tmp_path), first)
    assert np.array_equal(extract_features(cheap_model(), cheap_rows(), cache_dir=tmp_path), first)
    assert counted == []


def test_another_model_other_rows_and_other_outputs_are_other_entries(tmp_path: Path) -> None:
    extract(tmp_path)
    extract(tmp_path, cheap_model(1))
    extract(tmp_path, n=ROWS - 1)
    extract_outputs(cheap_model(), cheap_rows(), cache_dir=tmp_path, outputs=("features", "scores"))
    assert len(list_entries(tmp_path)) == 4


def test_both_outputs_of_one_pass_are_those_of_two(tmp_path: Path) -> None:
    model, x = cheap_model(), cheap_rows()
    found = extract_outputs(model, x, cache_dir=tmp_path, outputs=("features", "scores"))
    np.testing.assert_allclose(found.output("features"), model.features(x).numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.scores(), model.scores(x).double().numpy(), rtol=1e-6)
    assert extract_outputs(model, x, cache_dir=tmp_path, outputs=("scores",)).scores().shape == (ROWS,)
    with pytest.raises(InputError, match="outputs must be one of"):
        extract_outputs(model, x, cache_dir=tmp_path, outputs=("logits",))


def test_frames_graphs_and_doubles(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'auditkit[onnx]'")
    x = cheap_rows(50)
    plain = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
    torch.onnx.export(
        plain, (torch.zeros(2, 4),), tmp_path / "net.onnx", dynamo=False, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )  # fmt: skip
    import onnx

    hidden = next(n.output[0] for n in onnx.load(tmp_path / "net.onnx").graph.node if n.op_type == "Tanh")
    graph = load_model(tmp_path / "net.onnx", features=hidden)
    found = extract_features(graph, x, cache_dir=tmp_path / "cache")
    with torch.no_grad():
        np.testing.assert_allclose(found, plain[:2](torch.tensor(x)).numpy(), atol=1e-6)
    frame = pd.DataFrame(x, columns=list("abcd"))
    assert np.array_equal(
        extract_features(cheap_model(), frame, cache_dir=None), extract_features(cheap_model(), x, cache_dir=None)
    )
    double = TorchModule(plain.double())
    assert extract_features(double, x, cache_dir=tmp_path / "cache").dtype == np.float64


def test_a_model_without_features_and_wrong_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rows must be an ImageManifest, a TextTable, an AuditData, a DataFrame"):
        extract_features(cheap_model(), "rows", cache_dir=tmp_path)
    with pytest.raises(InputError, match="at least one row"):
        extract(tmp_path, n=0)
    with pytest.raises(InputError, match="batch_size=0"):
        extract_features(cheap_model(), cheap_rows(), cache_dir=tmp_path, batch_size=0)
    with pytest.raises(InputError, match="device must be"):
        extract(tmp_path, device="abacus")
    with pytest.raises(InputError, match="on_corrupt must be"):
        ExtractionConfig(on_corrupt="hope")  # type: ignore[arg-type]
    assert list_entries(tmp_path) == []


def test_mixed_precision_is_off_on_the_cpu(tmp_path: Path) -> None:
    assert np.array_equal(extract(tmp_path, device="cpu", mixed=True), extract(tmp_path, device="cpu"))
    assert len(list_entries(tmp_path)) == 1


@pytest.mark.gpu
def test_mixed_precision_on_a_gpu_is_another_entry(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    full, mixed = extract(tmp_path, device="cuda"), extract(tmp_path, device="cuda", mixed=True)
    np.testing.assert_allclose(full, mixed, atol=2e-2)
    assert not np.array_equal(full, mixed)
    assert len(list_entries(tmp_path)) == 2


# Kills


def extract_slowly(cache: str, seconds: float) -> None:
    """In a forked child: the extraction, with a pause in every chunk's write, between its bytes and its line."""
    torch.set_num_threads(1)
    plain = entries.checksum

    def slow(*args: Any) -> str:
        time.sleep(seconds)
        return plain(*args)

    entries.checksum = slow
    extract(Path(cache))


def finished_lines(cache: Path) -> int:
    return sum(journal.read_bytes().count(b"}") for journal in cache.glob("*/chunks.jsonl"))


def kill_somewhere(child: Any, cache: Path, rng: random.Random) -> bool:
    """Kill a child some chunks from where it began, at a random moment between two; False when it ended before."""
    goal, until = finished_lines(cache) + rng.randint(0, 7), time.monotonic() + 60
    while child.is_alive() and finished_lines(cache) < goal and time.monotonic() < until:
        time.sleep(0.0005)
    child.join(rng.uniform(0, 0.02))
    alive = child.is_alive()
    if alive:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return alive


@pytest.mark.parametrize("deaths", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_kills_leave_the_bits_of_an_undisturbed_run(tmp_path: Path, deaths: int) -> None:
    """Children die at random places of 32 chunks; each begins where the one before was killed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = extract(None)
        context, rng = multiprocessing.get_context("fork"), random.Random(0)
        kills, finished, partial = 0, 0, 0
        while kills < deaths:
            cache = tmp_path / str(finished)
            child = context.Process(target=extract_slowly, args=(str(cache), 0.001))
            child.start()
            kills += kill_somewhere(child, cache, rng)
            if found := list_entries(cache):
                assert found[0].state in ("unfinished", "whole", "damaged")
                partial += 0 < found[0].done < 1
                if found[0].state == "whole":
                    assert np.array_equal(extract(cache), expected)
                    finished += 1
        assert np.array_equal(extract(tmp_path / str(finished)), expected)
        assert partial > deaths / 3
        assert finished >= deaths // 30
    finally:
        torch.set_num_threads(threads)


def test_only_missing_chunks_are_computed_again(tmp_path: Path, counted: list[int]) -> None:
    expected = extract(None)
    extract(tmp_path)
    folder = entry_in(tmp_path)
    lines = (folder / "chunks.jsonl").read_text().splitlines()
    (folder / "chunks.jsonl").write_text("\n".join(lines[:20]) + "\n" + lines[20][:15])
    (folder / "features.npy").rename(folder / "features.npy.part")
    assert list_entries(tmp_path)[0].state == "unfinished"
    counted.clear()
    assert np.array_equal(extract(tmp_path), expected)
    chunk = BATCH * 4
    assert sum(rows for rows in counted) <= ROWS - 20 * chunk + BATCH + chunk
    assert list_entries(tmp_path)[0].state == "whole"


@pytest.mark.parametrize("place", ["features.npy", "chunks.jsonl", "entry.json"])
def test_flipped_bits_are_found_and_computed_again(tmp_path: Path, place: str, counted: list[int]) -> None:
    expected = np.array(extract(tmp_path))
    file = entry_in(tmp_path) / place
    content = bytearray(file.read_bytes())
    for position in (len(content) // 2, len(content) - 30):
        content[position] ^= 4
    file.write_bytes(content)
    counted.clear()
    found = extract(tmp_path)
    assert np.array_equal(found, expected)
    assert sum(counted) > 0
    assert place == "entry.json" or sum(counted) < ROWS / 2
    counted.clear()
    extract(tmp_path)
    assert counted == []


@pytest.mark.parametrize("size", [0, 50, 9_000])
def test_a_matrix_cut_short_is_mended(tmp_path: Path, size: int) -> None:
    expected = np.array(extract(tmp_path))
    os.truncate(entry_in(tmp_path) / "features.npy", size)
    assert np.array_equal(extract(tmp_path), expected)


def test_an_unfinished_entry_of_another_batch_size_begins_anew(tmp_path: Path) -> None:
    extract(tmp_path)
    (entry_in(tmp_path) / "features.npy").rename(entry_in(tmp_path) / "features.npy.part")
    found = extract_features(cheap_model(), cheap_rows(), cache_dir=tmp_path, batch_size=BATCH + 1)
    assert np.array_equal(found, extract_features(cheap_model(), cheap_rows(), cache_dir=None, batch_size=BATCH + 1))


# Two processes


def run_once(cache: str, log: str) -> None:
    torch.set_num_threads(1)
    model, passes = cheap_model(), 0
    plain = model._chunk_features

    def counting(chunk: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        time.sleep(0.002)
        return plain(chunk)

    model._chunk_features = counting  # type: ignore[method-assign]
    found = extract(Path(cache), model)
    Path(log).write_text(json.dumps({"passes": passes, "sum": float(found.astype(np.float64).sum())}))


def test_two_processes_compute_an_entry_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    logs = [tmp_path / f"{i}.json" for i in range(3)]
    children = [context.Process(target=run_once, args=(str(tmp_path / "cache"), str(log))) for log in logs]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    found = [json.loads(log.read_text()) for log in logs]
    assert len({one["sum"] for one in found}) == 1
    assert sorted(one["passes"] for one in found)[:2] == [0, 0]
    assert len(list_entries(tmp_path / "cache")) == 1


def hold(path: str, ready: str) -> None:
    with hold_lock(Path(path)):
        Path(ready).touch()
        time.sleep(60)


@contextmanager
def held_by_another(path: Path, tmp_path: Path) -> Iterator[Any]:
    child = multiprocessing.get_context("fork").Process(target=hold, args=(str(path), str(tmp_path / "ready")))
    child.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    try:
        yield child
    finally:
        child.kill()
        child.join()


def test_a_killed_process_keeps_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with held_by_another(lock, tmp_path) as child:
        with try_lock(lock) as held:
            assert not held
        child.kill()
        child.join()
        with try_lock(lock) as held:
            assert held


def test_a_child_that_outlives_its_parent_keeps_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    context = multiprocessing.get_context("fork")
    with hold_lock(lock):
        child = context.Process(target=time.sleep, args=(30,))
        child.start()
    try:
        until = time.monotonic() + 20  # the child lets go of it as soon as it runs at all
        while not is_free(lock):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert child.is_alive()
    finally:
        child.kill()
        child.join()


def is_free(lock: Path) -> bool:
    with try_lock(lock) as held:
        return held


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with try_lock(lock, discard=True) as held:
        assert held
    assert not lock.exists()
    with try_lock(lock) as held, try_lock(lock) as again:
        assert (held, again) == (True, False)


# Removal


def test_entries_are_listed_and_removed(tmp_path: Path) -> None:
    assert list_entries(tmp_path / "absent") == []
    extract(tmp_path)
    extract(tmp_path, cheap_model(1))
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / ("f" * 64)).mkdir()
    summaries = list_entries(tmp_path)
    assert sorted(summary.state for summary in summaries) == ["damaged", "whole", "whole"]
    whole = [summary for summary in summaries if summary.state == "whole"]
    assert {summary.fingerprint for summary in whole} == {cheap_model().fingerprint, cheap_model(1).fingerprint}
    assert all(summary.size > ROWS * WIDTH * 4 and summary.rows == ROWS and summary.done == 1 for summary in whole)
    key = find_key(tmp_path, whole[0].key[:8])
    removed, left = remove_entries(tmp_path, lambda summary: summary.key == key)
    assert ([one.key for one in removed], left) == ([key], [])
    removed, left = remove_entries(tmp_path, lambda summary: True)
    assert (len(removed), left) == (2, [])
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() or path.suffix == ".lock"] == []
    assert (tmp_path / "notes.txt").exists()
    with pytest.raises(InputError, match="0 entries"):
        find_key(tmp_path, key)
    with pytest.raises(InputError, match="at least 6 characters"):
        find_key(tmp_path, "ab")


def test_what_another_process_writes_is_not_removed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    extract(cache)
    folder = entry_in(cache)
    with held_by_another(lock_path(folder), tmp_path):
        assert list_entries(cache)[0].state == "writing"
        removed, left = remove_entries(cache, lambda summary: True)
        assert (removed, [one.key for one in left]) == ([], [folder.name])
        assert folder.is_dir()
    assert len(remove_entries(cache, lambda summary: True)[0]) == 1


def test_features_stay_readable_after_their_entry_went(tmp_path: Path) -> None:
    found = extract(tmp_path)
    before = np.array(found)
    remove_entries(tmp_path, lambda summary: True)
    assert np.array_equal(found, before)
    assert np.array_equal(extract(tmp_path), before)


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUDITKIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("AUDITKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "auditkit" / "features"


# Full disks


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_without_room_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"0\.0 MiB of features do not fit in .*No space left.*--no-cache"):
        extract(tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    monkeypatch.undo()
    assert np.array_equal(extract(tmp_path), extract(None))


@pytest.mark.parametrize("good", [0, 3])
def test_a_disk_that_fills_up_leaves_finished_chunks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    plain, written = entries.Entry.write_chunk, 0

    def write(self: entries.Entry, *args: Any, **options: Any) -> None:
        nonlocal written
        written += 1
        if written <= good:
            return plain(self, *args, **options)
        with (self.folder / entries.UNFINISHED).open("r+b") as stream:
            stream.write(b"torn")  # part of the header even
        raise entries.disk_error(self.folder.parent, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(entries.Entry, "write_chunk", write)
    with pytest.raises(InputError, match="cannot be written .*No space left"):
        extract(tmp_path)
    assert not list(tmp_path.glob("*/features.npy"))
    assert [entry.state for entry in list_entries(tmp_path)] == ["unfinished"] * (good > 0)
    monkeypatch.undo()
    assert np.array_equal(extract(tmp_path), extract(None))


def test_a_real_full_disk(tmp_path: Path) -> None:
    """On a file system of 64 KiB: one entry fits, the next does not and leaves nothing."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        first = np.array(extract(disk))
        with pytest.raises(InputError, match=r"MiB of features do not fit in .*No space left"):
            extract(disk, cheap_model(1), n=4_000)
        assert [entry.state for entry in list_entries(disk)] == ["whole"]
        assert np.array_equal(extract(disk), first)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# Several processes of one group


def run_rank(cache: str, out: str) -> None:
    """What torchrun starts: the features by all processes together."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model, passes = cheap_model(), [0]
    plain = model._chunk_features

    def counting(chunk: torch.Tensor) -> torch.Tensor:
        passes[0] += len(chunk)
        return plain(chunk)

    model._chunk_features = counting  # type: ignore[method-assign]
    found = extract(Path(cache), model)
    error = ""
    broken = cheap_model(1)

    def breaking(chunk: torch.Tensor) -> torch.Tensor:
        if rank == 1:
            raise InputError("the second process stumbled")
        return plain(chunk)

    broken._chunk_features = breaking  # type: ignore[method-assign]
    try:
        extract(Path(cache), broken)
    except InputError as stopped:
        error = str(stopped)
    np.save(Path(out) / f"{rank}.npy", found)
    (Path(out) / f"{rank}.json").write_text(json.dumps({"rows": passes[0], "error": error}))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_of_a_group_share_the_rows(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.test_feature_cache import run_rank\n"
        f"run_rank({str(tmp_path / 'cache')!r}, {str(tmp_path)!r})\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, check=False
    )
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = extract(None)
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(np.load(tmp_path / f"{rank}.npy"), expected) for rank in range(2)), done.stderr[-2000:]
    assert all(ROWS / 2 - 40 < one["rows"] < ROWS / 2 + 80 for one in told)
    assert told[1]["error"] == "the second process stumbled"
    assert told[0]["error"] == "process 1: the second process stumbled"
    assert [entry.state for entry in list_entries(tmp_path / "cache")].count("whole") == 1

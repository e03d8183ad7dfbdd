"""Features of images by `extract_features` beside a plain timm loop, in one process, by turns.

    AUDITKIT_DATA=<folder> python -m benchmarks.features                the faces of the data folder, 3,000 images
    python -m benchmarks.features --images FOLDER --model timm:<name> --checkpoint FILE

The plain loop is what one writes without auditkit: a data set that opens the image, converts it and applies timm's
transform, a DataLoader of the same batch size and workers, ``forward_features`` and ``forward_head`` under
``torch.no_grad``, and one array of all features at the end. Ours also hashes every file, checks it, compares it with
its hash when it is decoded, and writes checksummed chunks into a new cache; the clock includes all of that. After one
warm-up of each, both run ``--rounds`` times, alternating in their order; the ratios are those of the summed times, by
the clock and of the processors (workers included), which other work on the machine disturbs less. Then a second call
is timed, which reads the cache.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from auditkit.feature_cache import ImageManifest, extract_features, read_manifest
from auditkit.images import FORMATS
from auditkit.models import load_model
from auditkit.models.timm_model import TimmModel

GOAL = 0.95


class Plain(Dataset[torch.Tensor]):
    """Images as a data set of timm's examples."""

    def __init__(self, paths: list[Path], transform: Any) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.paths[row]) as image:
            return self.transform(image.convert("RGB"))


def run_plain(model: TimmModel, manifest: ImageManifest, batch: int, workers: int) -> np.ndarray:
    module: Any = model.placed_module()
    loader = DataLoader(Plain(list(manifest.paths), model.image_transform()), batch_size=batch, num_workers=workers)
    device, found = next(module.parameters()).device, []
    with torch.no_grad():
        for images in loader:
            features = module.forward_head(module.forward_features(images.to(device)), pre_logits=True)
            found.append(features.flatten(1).cpu().numpy())
    return np.concatenate(found)


def run_ours(model: TimmModel, manifest: ImageManifest, batch: int, workers: int, cache: Path | None) -> np.ndarray:
    fresh = ImageManifest(manifest.data, manifest.paths, manifest.keys)  # its hashes are taken within the clock
    return extract_features(model, fresh, cache_dir=cache, batch_size=batch, workers=workers)


def list_images(folder: Path, limit: int | None, scratch: Path) -> ImageManifest:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix.lower() in FORMATS)[
        :limit
    ]
    rows = pd.DataFrame({"path": names, "group": np.arange(len(names)) % 2})
    rows.to_csv(scratch / "images.csv", index=False)
    return read_manifest(scratch / "images.csv", attributes="group", folder=folder)


def cpu_seconds() -> float:
    """Processor time of this process and of the workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(model: TimmModel, manifest: ImageManifest, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    settings = options.batch_size, options.workers
    few = manifest.take(np.arange(min(2 * options.batch_size, manifest.n_rows)))
    run_plain(model, few, *settings), run_ours(model, few, *settings, scratch / "warm")
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    processors = {"plain": 0.0, "ours": 0.0}
    for turn in range(options.rounds):
        for name in ("plain", "ours") if turn % 2 == 0 else ("ours", "plain"):
            begin, used = time.perf_counter(), cpu_seconds()
            if name == "plain":
                plain = run_plain(model, manifest, *settings)
            else:
                ours = run_ours(model, manifest, *settings, scratch / str(turn))
            seconds[name].append(time.perf_counter() - begin)
            processors[name] += cpu_seconds() - used
    begin = time.perf_counter()
    again = run_ours(model, manifest, *settings, scratch / "0")
    seconds["again"] = [time.perf_counter() - begin]
    difference = float(np.abs(plain - ours).max() / np.abs(plain).max())
    return {
        "seconds": seconds,
        "processors": processors,
        "difference": difference,
        "same": bool(np.array_equal(ours, again)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(os.environ.get("AUDITKIT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "faces" / "images"
    parser.add_argument("--images", type=Path, default=beside, help="folder of images")
    parser.add_argument("--limit", type=int, default=None, help="the first so many of them")
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    options, console = parser.parse_args(), Console(width=120)
    if not options.images.is_dir():
        console.print("features: there is no folder of images; name one with --images, or set AUDITKIT_DATA")
        return
    model = load_model(options.model, **({} if options.checkpoint is None else {"checkpoint": options.checkpoint}))
    assert isinstance(model, TimmModel)
    with tempfile.TemporaryDirectory() as scratch:
        manifest = list_images(options.images, options.limit, Path(scratch))
        found = measure(model, manifest, options, Path(scratch))
    show(console, found, manifest.n_rows, options)


def show(console: Console, found: dict[str, Any], n_rows: int, options: argparse.Namespace) -> None:
    title = (
        f"{n_rows:,} images, {options.model}, batches of {options.batch_size}, {options.workers} workers, "
        f"{torch.get_num_threads()} threads, {options.rounds} rounds by turns"
    )
    table = Table("", "seconds a round", "images/s", "of the plain loop", title=title, title_justify="left")
    plain = float(np.mean(found["seconds"]["plain"]))
    for name, label in (("plain", "plain timm loop"), ("ours", "extract_features"), ("again", "from the cache")):
        rounds = found["seconds"][name]
        mean = float(np.mean(rounds))
        shown = " ".join(f"{value:.1f}" for value in rounds) if mean > 1 else f"{mean:.2f}"
        table.add_row(label, shown, f"{n_rows / mean:,.0f}", f"{plain / mean:,.3f}×")
    console.print(table)
    ratio = plain / float(np.mean(found["seconds"]["ours"]))
    console.print(
        f"throughput of the plain loop's: {ratio:.1%} (goal: at least {GOAL:.0%}), by processor time "
        f"{found['processors']['plain'] / found['processors']['ours']:.1%}; largest difference of the features "
        f"{found['difference']:.1e} of the largest; the cache gave the same bits: {found['same']}"
    )


if __name__ == "__main__":
    main()

"""Frozen features of the images in a manifest, kept in a cache folder.

python sample_models/vision/extract.py MANIFEST --attributes sex race --label target --cache DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from auditkit.feature_cache import extract_features, read_manifest
from auditkit.models import load_model
from auditkit.progress import RichProgress


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="table with one row per image")
    parser.add_argument("--attributes", nargs="+", required=True, help="columns of protected attributes")
    parser.add_argument("--image-column", default="path", help="column of image paths (default: path)")
    parser.add_argument("--label", help="column of outcomes")
    parser.add_argument("--positive", help="value of the label that counts as 1")
    parser.add_argument("--images", type=Path, help="folder of the images (default: the manifest's)")
    parser.add_argument("--model", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--checkpoint", type=Path, help="local weights for --model")
    parser.add_argument("--cache", type=Path, default=Path("features"), help="folder of cached features")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")
    return parser.parse_args()


def main() -> None:
    """Read the manifest, compute or read the features, print what they are."""
    options = parse()
    manifest = read_manifest(
        options.manifest,
        attributes=options.attributes,
        image_column=options.image_column,
        label=options.label,
        positive_label=options.positive,
        folder=options.images,
    )
    model = load_model(options.model, checkpoint=options.checkpoint)
    features = extract_features(
        model,
        manifest,
        cache_dir=options.cache,
        batch_size=options.batch_size,
        workers=options.workers,
        progress=RichProgress(),
    )
    print(json.dumps({"shape": features.shape, "file": str(features.filename), "model": model.fingerprint}))


if __name__ == "__main__":
    main()

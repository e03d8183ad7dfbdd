"""Where the sample models lie."""

from __future__ import annotations

from pathlib import Path

from auditkit.errors import InputError


def sample_folder(name: str) -> Path:
    """Folder of a sample model: inside an installed package, or in the repository beside it.

    Raises:
        InputError: There is no such sample; the message lists those there are.
    """
    package = Path(__file__).parents[1]
    homes = [package / "_samples", package.parent / "sample_models"]
    found = {folder.name: folder for home in reversed(homes) if home.is_dir() for folder in home.iterdir()}
    samples = {key: folder for key, folder in found.items() if (folder / "card.json").is_file()}
    if name not in samples:
        raise InputError(f"sample model {name!r} does not exist; there are: {', '.join(sorted(samples)) or 'none'}")
    return samples[name]

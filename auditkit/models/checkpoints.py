"""Weights of a torch model from a local file, tensors and nothing else."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from auditkit.errors import InputError, UntrustedFileError

TENSOR_PICKLES = (".pth", ".pt", ".bin")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, or a .pth, .pt or .bin file of plain tensors.

    Raises:
        InputError: The file is missing, damaged or of another kind.
        UntrustedFileError: It holds more than tensors.
    """
    if not path.is_file():
        raise InputError(f"checkpoint: there is no file {str(path)!r}")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise InputError(f"checkpoint: {str(path)!r} is damaged or no safetensors file ({error})") from error
    if path.suffix not in TENSOR_PICKLES:
        raise InputError(f"checkpoint must be a .safetensors or .pth file; got {path.name!r}")
    return read_tensor_pickle(path)


def read_tensor_pickle(path: Path) -> dict[str, Tensor]:
    """Read a pickled state_dict with torch's restricted unpickler, which constructs tensors only.

    Raises:
        InputError: It is damaged, or holds no names with tensors.
        UntrustedFileError: It holds more than tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UntrustedFileError(
            f"checkpoint: {path.name!r} holds more than tensors, so loading it could run code; "
            "save the state_dict with safetensors.torch.save_file"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"checkpoint: {str(path)!r} is damaged or no torch checkpoint ({error})") from error
    stored = stored.get("state_dict", stored) if isinstance(stored, dict) else stored
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise InputError(f"checkpoint: {path.name!r} must hold a state_dict (names → tensors)")
    return stored

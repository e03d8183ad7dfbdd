"""Set-up shared by every test: shape checks, repeatable examples, one thread per test process."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch

from tests import shape_checking
from tests.run_folders import Run

if shapes := shape_checking.modules_with_shapes():
    jaxtyping.install_import_hook(shapes, "tests.shape_checking.check_shapes")

hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    missing = {
        "browser": None if any(map(shutil.which, CHROMIUM)) else "no Chromium; apt-get install chromium",
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "spark": None if _has_spark() else "no Java or no pyspark; pip install 'auditkit[spark]'",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_spark() -> bool:
    return shutil.which("java") is not None and importlib.util.find_spec("pyspark") is not None


@pytest.fixture
def pdf_writer() -> None:
    """Skips, with the reason, where PDFs cannot be written."""
    from auditkit.errors import MissingExtraError
    from auditkit.reporting.pdf import import_weasyprint

    try:
        import_weasyprint()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with the same stream in every run."""
    return np.random.default_rng(20240607)


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Let a wrong shape through to auditkit's own validation, as outside of the tests."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command and returns its exit code, stdout and stderr."""
    from auditkit import cli

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's executable, for Playwright and for printing."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip("no Chromium; apt-get install chromium")
    return found

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sample_models" / "adult_mlp"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def normalized(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def test_constraints_are_plain_sorted_pins() -> None:
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in CONSTRAINTS)
    names = [normalized(line) for line in CONSTRAINTS]
    assert names == sorted(set(names))
    assert {"torch==2.13.0", "torchvision==0.28.0"} <= set(CONSTRAINTS)


@pytest.mark.parametrize("requirement", DEPENDENCIES)
def test_every_dependency_is_pinned_within_its_bounds(requirement: str) -> None:
    pins = {normalized(line): line.partition("==")[2] for line in CONSTRAINTS}
    assert normalized(requirement) in pins, "add it to constraints.txt"
    pin = release(pins[normalized(requirement)])
    for sign, bound in re.findall(r"(>=|<)([\d.]+)", requirement):
        assert pin >= release(bound) if sign == ">=" else pin < release(bound)


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel made from the source distribution, as an index would serve it."""
    if not SAMPLE.is_dir():
        pytest.skip("the sample model has not been built")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.mark.slow
def test_wheel_holds_the_package_and_the_sample(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    package = ROOT / "auditkit"
    wanted = {
        f"auditkit/{file.relative_to(package).as_posix()}"
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert wanted <= names
    assert "auditkit/py.typed" in names
    sample = {
        f"auditkit/_samples/adult_mlp/{file.relative_to(SAMPLE).as_posix()}"
        for file in SAMPLE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert sample <= names


@pytest.mark.slow
def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"auditkit", f"auditkit-{PROJECT['version']}.dist-info"}
    files = [Path(name) for name in wheel.namelist()]
    assert not [
        file for file in files if file.name.startswith(("test_", "conftest")) or file.suffix in {".pyc", ".log"}
    ]


@pytest.mark.slow
def test_wheel_declares_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    info = f"auditkit-{PROJECT['version']}.dist-info"
    assert "auditkit = auditkit.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: MIT" in metadata
    assert "Requires-Python: >=3.11" in metadata

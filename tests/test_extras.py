from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from auditkit._extras import EXTRAS, import_extra
from auditkit.errors import MissingExtraError

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = PROJECT["optional-dependencies"]


def normalized(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name.group()).lower()


@pytest.mark.parametrize(("package", "extra"), sorted(EXTRAS.items()))
def test_named_extra_installs_the_package(package: str, extra: str) -> None:
    assert extra in DECLARED, f"_extras.py names the extra {extra!r}, pyproject.toml does not"
    assert normalized(package) in {normalized(requirement) for requirement in DECLARED[extra]}


@pytest.mark.parametrize("package", sorted(EXTRAS))
def test_optional_package_is_no_ordinary_dependency(package: str) -> None:
    assert normalized(package) not in {normalized(requirement) for requirement in PROJECT["dependencies"]}


@pytest.mark.parametrize(("package", "extra"), sorted(EXTRAS.items()))
@pytest.mark.parametrize("submodule", ["", ".inner.part"])
def test_missing_package_names_the_pip_command(
    package: str, extra: str, submodule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError) as caught:
        import_extra(package + submodule)
    assert str(caught.value).endswith(f"run: pip install 'auditkit[{extra}]'")
    assert str(caught.value).startswith(package)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("raise ImportError('libfoo.so.1: cannot open shared object file')", ImportError, "libfoo"),
        ("import a_module_that_nobody_has", ModuleNotFoundError, "a_module_that_nobody_has"),
        ("raise RuntimeError('the driver is too old')", RuntimeError, "driver"),
    ],
)
def test_failure_inside_the_package_is_not_disguised(
    body: str, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRAS, "broken_package_for_the_test", "onnx")
    (tmp_path / "broken_package_for_the_test.py").write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=message) as caught:
        import_extra("broken_package_for_the_test")
    assert not isinstance(caught.value, MissingExtraError)


def test_present_package_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "json", "onnx")
    assert import_extra("json.decoder") is sys.modules["json.decoder"]

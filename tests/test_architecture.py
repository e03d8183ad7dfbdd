"""The rules of the house, read off the syntax tree of every file."""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "auditkit"
APP = ROOT / "app"

ROWS = (
    {"errors", "_typing", "_extras", "_validation", "progress", "checks", "expressions", "_locks", "_image_checks"}
    | {"_files", "feature_rows"},
    {"categories", "groups", "criteria", "contrasts", "affine_criteria", "cvxpy_constraints", "moments"}
    | {"moment_maps", "row_sets"}
    | {"intervals", "proportions", "multiplicity", "squares", "plans", "margins", "decision_rules"},
    {"datasets", "splits", "_tables", "heads", "models", "feature_cache", "images", "table_roles", "leakage"}
    | {"expression_values", "table_limits", "array_files", "csv_export", "frames", "table_files", "texts"}
    | {"parquet_pages", "clusters", "split_rules", "feature_tables"}
    | {"constraints", "batches", "projection", "results", "jacobian", "autograd"},
    {
        "solvers",
        "engines",
        "joint",
        "event_estimates",
        "estimates",
        "decisions",
        "accuracy",
        "findings",
        "observations",
        "metrics",
        "onnx_export",
    },
    {"auditing", "monitoring", "subgroups", "enforcement", "layer", "deployment", "streaming", "state_store"},
    {"finetuning", "tuning", "estimators", "baselines", "comparison", "online_enforcer"},
    {"reporting", "config", "run_folder", "predictions", "subjects", "jobs", "splitting", "batch_scoring"}
    | {"service", "stream_job", "stream_history", "what_if", "image_scoring", "run_archive", "certificates"}
    | {"row_scoring", "text_scoring", "table_scoring"},
    {"cli", "__main__"},
)
"""A module imports only from the rows above its own; a folder's name stands for every file in it."""

WITHIN_ROW = {
    "_extras": {"errors"},
    "_validation": {"errors", "_typing"},
    "affine_criteria": {"criteria", "cvxpy_constraints"},
    "batches": {"constraints"},
    "contrasts": {"categories", "criteria", "groups"},
    "criteria": {"groups"},
    "groups": {"categories"},
    "moments": {"groups", "criteria"},
    "squares": {"moments"},
    "margins": {"groups", "moments"},
    "observations": {"decisions"},
    "auditing": {"subgroups"},
    "plans": {"criteria"},
    "datasets": {"_tables", "frames", "splits", "table_roles"},
    "split_rules": {"clusters", "splits"},
    "table_roles": {"_tables", "expression_values"},
    "_tables": {"array_files", "table_limits"},
    "frames": {"_tables"},
    "table_files": {"_tables", "table_limits"},
    "texts": {"_tables", "datasets", "table_files", "table_roles"},
    "array_files": {"table_limits"},
    "table_limits": {"parquet_pages"},
    "expressions": {"errors"},
    "expression_values": {"_tables"},
    "feature_cache": {"datasets", "feature_tables", "images", "models", "texts"},
    "feature_rows": {"_typing", "errors"},
    "feature_tables": {"_tables", "datasets", "table_files", "table_roles"},
    "images": {"_tables", "datasets", "table_roles"},
    "models": {"_tables"},
    "layer": {"enforcement"},
    "jacobian": {"projection"},
    "autograd": {"jacobian"},
    "projection": {"constraints"},
    "results": {"projection"},
    "estimates": {"event_estimates", "joint"},
    "decisions": {"joint"},
    "findings": {"estimates", "event_estimates"},
    "proportions": {"intervals"},
    "state_store": {"streaming"},
    "streaming": {"monitoring"},
    "baselines": {"finetuning", "tuning"},
    "estimators": {"finetuning", "tuning"},
    "finetuning": {"tuning"},
    "comparison": {"finetuning", "baselines"},
    "jobs": {"certificates", "config", "run_folder", "predictions", "splitting", "subjects"},
    "splitting": {"config", "subjects"},
    "subjects": {
        "batch_scoring",
        "config",
        "image_scoring",
        "row_scoring",
        "run_folder",
        "predictions",
        "table_scoring",
        "text_scoring",
    },
    "row_scoring": {"config"},
    "image_scoring": {"config", "row_scoring"},
    "table_scoring": {"config", "row_scoring", "run_folder"},
    "text_scoring": {"config", "row_scoring"},
    "predictions": {"config", "run_folder"},
    "what_if": {"config", "subjects"},
    "__main__": {"cli"},
    "run_folder": {"reporting", "config"},
    "run_archive": {"reporting"},
}
"""What a module may import from its own row."""

HOMES = {
    "cvxpy": {"cvxpy_constraints.py", "solvers/cvxpy_solver.py"},
    "cryptography": {"reporting/signing.py"},
    "daqp": {"solvers/active_set.py"},
    "fastapi": {"service/*.py"},
    "prometheus_client": {"service/metrics.py"},
    "sqlalchemy": {"state_store/sql_store.py"},
    "uvicorn": {"service/protocol.py", "service/serving.py"},
    "duckdb": {"engines/duckdb_engine.py"},
    "error_parity": {"baselines/error_parity_thresholds.py"},
    "fairlearn": {"baselines.py", "baselines/*"},
    "fairret": {"baselines/fairret_penalty.py"},
    "lightgbm": {"models/boosted_model.py"},
    "onnx": {"models/onnx_file.py", "models/onnx_model.py", "onnx_export.py"},
    "onnxruntime": {"models/onnx_model.py"},
    "osqp": {"solvers/osqp_solver.py"},
    "oxonfair": {"baselines/oxonfair_thresholds.py"},
    "plotly": {"reporting/charts.py", "reporting/frontier.py", "reporting/reliability.py"},
    "pyspark": {"engines/spark_engine.py"},
    "skops": {"models/skops_file.py"},
    "streamlit": set(),
    "timm": {"models/timm_model.py"},
    "transformers": {"models/transformer_folder.py"},
    "weasyprint": {"reporting/pdf.py"},
    "xgboost": {"models/boosted_model.py"},
}
"""The only files of auditkit that may import a package, wherever in the file the import stands."""

HEAVY = ("cvxpy", "pandas", "sklearn", "streamlit", "timm", "torch")
APP_MODULES = {"auditkit.csv_export", "auditkit.reporting", "auditkit.run_archive"}
"""What screens may import beside the forty names of the package root: no screen writes a file of its own making."""

MAX_PUBLIC_NAMES = 40
MAX_MODULE_LINES = 400
MAX_BODY_LINES = 60

MODULES = sorted(PACKAGE.rglob("*.py"))
SCREENS = sorted(APP.rglob("*.py"))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_module = pytest.mark.parametrize("path", MODULES, ids=shown)
every_screen = pytest.mark.parametrize("path", SCREENS, ids=shown)
every_source = pytest.mark.parametrize("path", MODULES + SCREENS, ids=shown)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path) for path in MODULES}


@dataclass(frozen=True)
class Import:
    """One name that a file brings in: ``from module import name``, or ``import module`` with no name."""

    module: str
    name: str | None
    line: int

    @property
    def target(self) -> str:
        """The module that is loaded: the name itself where it is a module of auditkit."""
        full = f"{self.module}.{self.name}"
        return full if full in NAMES else self.module


def imports_of(path: Path) -> Iterator[Import]:
    """Every import, also those inside functions and under TYPE_CHECKING, and those by name through importlib."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_extra", "import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield Import(node.args[0].value, None, node.lineno)


def area_of(module: str) -> str:
    """The entry of ROWS a module falls under: ``auditkit.solvers.newton`` → ``solvers``."""
    return module.split(".")[1] if "." in module else ""


def row_of(area: str) -> int:
    rows = [number for number, row in enumerate(ROWS, start=1) if area in row]
    assert rows, f"auditkit.{area} is in no row; add it to the table ROWS in {shown(Path(__file__))}"
    return rows[0]


def may_import(area: str, target: str) -> bool:
    if area == target or row_of(target) < row_of(area):
        return True
    return row_of(target) == row_of(area) and target in WITHIN_ROW.get(area, set())


@every_module
def test_imports_only_from_the_rows_above(path: Path) -> None:
    area = area_of(dotted(path))
    if not area:
        return
    row_of(area)
    wrong = []
    for found in imports_of(path):
        if found.module.partition(".")[0] != "auditkit" or (found.module, found.name) == ("auditkit", "__version__"):
            continue
        target = area_of(found.target)
        if not target or not may_import(area, target):
            wrong.append(f"{shown(path)}:{found.line} imports {found.target}")
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def test_tables_name_each_module_once() -> None:
    areas = [area for row in ROWS for area in row]
    assert len(areas) == len(set(areas))
    for area, targets in WITHIN_ROW.items():
        assert {row_of(target) for target in targets} == {row_of(area)}


def test_no_import_cycles() -> None:
    graph = {
        dotted(path): {found.target for found in imports_of(path)} & NAMES - {dotted(path)}
        for path in MODULES
        if path != PACKAGE / "__init__.py"
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("import cycle: " + " → ".join(reversed(error.args[1])))


@every_module
def test_heavy_packages_stay_in_their_file(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    wrong = [
        f"{shown(path)}:{found.line} imports {found.module}; it belongs in {sorted(HOMES[package]) or 'app/'}"
        for found in imports_of(path)
        if (package := found.module.partition(".")[0]) in HOMES and not any(map(place.match, HOMES[package]))
    ]
    assert not wrong, "\n".join(wrong)


@every_screen
def test_app_uses_the_public_names_only(path: Path) -> None:
    wrong = [
        f"{shown(path)}:{found.line} imports {found.target}"
        for found in imports_of(path)
        if (found.module.startswith("auditkit.") and found.module not in APP_MODULES)
        or (found.module == "auditkit" and found.target != "auditkit")
    ]
    assert not wrong, "\n".join(wrong)


def test_package_root_holds_an_export_table_and_nothing_else() -> None:
    body = tree_of(PACKAGE / "__init__.py").body
    assert ast.get_docstring(tree_of(PACKAGE / "__init__.py"))
    wrong = [f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}" for node in body[1:] if not is_table(node)]
    assert not wrong, "\n".join(wrong)


def is_table(node: ast.stmt) -> bool:
    """An import, a plain assignment, imports for type checkers, or one of the two hooks that read the table."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Assign() | ast.AnnAssign():
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=[]):
            return all(isinstance(inner, ast.Import | ast.ImportFrom) for inner in body)
        case ast.FunctionDef(name=name):
            return name in {"__getattr__", "__dir__"}
    return False


def test_public_names_are_sorted_and_few() -> None:
    public = importlib.import_module("auditkit").__all__
    assert list(public) == sorted(public)
    assert len(set(public)) == len(public) <= MAX_PUBLIC_NAMES


def test_public_names_resolve_and_are_explained() -> None:
    auditkit = importlib.import_module("auditkit")
    unexplained = []
    for name in auditkit.__all__:
        value = getattr(auditkit, name)
        own = vars(value).get("__doc__") if isinstance(value, type) else value.__doc__
        if name != "__version__" and not (own or "").strip():
            unexplained.append(name)
    assert not unexplained, f"no docstring: {', '.join(unexplained)}"
    assert set(auditkit.__all__) <= set(dir(auditkit))


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module("auditkit").no_such_name  # noqa: B018


def modules_loaded_by(code: str) -> set[str]:
    """Top-level packages in ``sys.modules`` of a fresh interpreter after running ``code``."""
    program = f"import json, sys\n{code}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_import_loads_nothing_heavy() -> None:
    assert not modules_loaded_by("import auditkit") & set(HEAVY)


def test_help_loads_nothing_heavy() -> None:
    code = """
from auditkit.cli import main
sys.argv = ["auditkit", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert not modules_loaded_by(code) & set(HEAVY)


@pytest.mark.slow
def test_import_takes_less_than_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import auditkit"], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1


FORBIDDEN = {
    "say assess, mitigate or gap": re.compile("de" + r"[-_ ]?bias", re.IGNORECASE),
    "open an issue instead": re.compile(r"\b(TODO|" + "FIX" + r"ME|XXX)\b"),
    "a path of one machine": re.compile(r"(?<![\w.}>])/(work|root|home|Users|tmp|mnt)/\w"),
}
TEXTS = sorted(
    path
    for folder in (PACKAGE, APP)
    for path in folder.rglob("*")
    if path.suffix in {".css", ".html", ".j2", ".jinja", ".js", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
)


@pytest.mark.parametrize("path", TEXTS, ids=shown)
def test_no_forbidden_words(path: Path) -> None:
    wrong = [
        f"{shown(path)}:{number} {line.strip()[:80]} ({reason})"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for reason, pattern in FORBIDDEN.items()
        if pattern.search(line)
    ]
    assert not wrong, "\n".join(wrong)


@every_source
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_MODULE_LINES, f"{shown(path)} has {lines} lines"


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body without its docstring."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


@every_source
def test_functions_are_short(path: Path) -> None:
    long = {function.name: body_lines(function) for function in functions_of(path)}
    assert not {name: lines for name, lines in long.items() if lines > MAX_BODY_LINES}


@every_source
def test_parameters_are_annotated(path: Path) -> None:
    bare = []
    for function in functions_of(path):
        signature = function.args
        named = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs, signature.vararg, signature.kwarg]
        bare += [
            f"{shown(path)}:{function.lineno} {function.name}({argument.arg})"
            for argument in named
            if argument is not None and argument.annotation is None and argument.arg not in {"self", "cls"}
        ]
    assert not bare, "\n".join(bare)

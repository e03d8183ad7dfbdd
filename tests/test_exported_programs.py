"""torch.export programs: the same numbers as the module, and nothing in the archive that could run."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditkit.errors import InputError, UntrustedFileError
from auditkit.models import TorchModule, load_model

Parts = dict[str, bytes]
PROGRAM = "models/model.json"


class Net(nn.Module):
    def __init__(self, n_outputs: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(6, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    for _ in range(3):
        net(torch.randn(32, 4) * 3 + 1)
    return net.eval()


def save(module: nn.Module, path: Path, *, rows: int | None = None) -> Path:
    shapes = None if rows else ({0: torch.export.Dim("n", min=1)},)
    torch.export.save(torch.export.export(module, (torch.randn(rows or 3, 4),), dynamic_shapes=shapes), path)
    return path


@pytest.fixture(scope="module")
def stored(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(net, tmp_path_factory.mktemp("programs") / "net.pt2")


def test_program_computes_what_the_module_does(net: Net, stored: Path) -> None:
    x = torch.randn(50, 4)
    program, module = load_model(stored), TorchModule(net)
    assert (program.name, program.task, program.n_features) == ("net", "binary", 6)
    torch.testing.assert_close(program.logits(x), module.logits(x), rtol=0, atol=0)
    torch.testing.assert_close(program.features(x), module.features(x), rtol=0, atol=0)
    assert program.weights_sha256 == module.weights_sha256
    assert program.fingerprint == load_model(str(stored)).fingerprint
    program.check_frozen()


@pytest.mark.parametrize("layer", ["body.0", "body.2", "body"])
def test_any_layer_is_a_feature_point(net: Net, stored: Path, layer: str) -> None:
    x = torch.randn(9, 4)
    expected = TorchModule(net, feature_layer=layer, n_features=6).features(x)
    torch.testing.assert_close(load_model(stored, features=layer).features(x), expected, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"features 'tail' is no layer or value of 'net\.pt2'; there are: body"):
        load_model(stored, features="tail")


def test_fixed_batch_size_is_filled_up_and_cut(net: Net, tmp_path: Path) -> None:
    fixed, x = load_model(save(net, tmp_path / "fixed.pt2", rows=4)), torch.randn(10, 4)
    torch.testing.assert_close(fixed.scores(x), TorchModule(net).scores(x))
    assert fixed.features(x).shape == (10, 6)


def test_wrong_batches_and_tasks(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"batch must have shape \(n, 4\) for model 'net'; got \(2, 5\)"):
        load_model(stored).scores(torch.zeros(2, 5))
    wide = save(Net(3).eval(), tmp_path / "wide.pt2")
    with pytest.raises(InputError, match='needs task="multiclass"'):
        load_model(wide).scores(torch.zeros(2, 4))
    assert load_model(wide, task="multiclass").scores(torch.zeros(2, 4)).shape == (2, 3)


def test_a_program_in_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exported in training mode; call module\.eval\(\)"):
        load_model(save(Net().train(), tmp_path / "train.pt2"))


def test_a_program_of_two_inputs_is_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    program = torch.export.export(Two(), (torch.zeros(2, 1), torch.zeros(2, 1)))
    torch.export.save(program, tmp_path / "two.pt2")
    with pytest.raises(InputError, match=r"reads 2 inputs \(x, y\); it must read one tensor"):
        load_model(tmp_path / "two.pt2")


def write(path: Path, parts: Parts, *, compressed: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(f"net/{name}", content)
    return path


def read(path: Path) -> Parts:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def boom(marker: Path) -> bytes:
    """A pickle, also in the form of torch.save, that leaves a file behind when it is loaded."""

    class Boom:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(marker), "w"))

    buffer = io.BytesIO()
    torch.save({"boom": Boom()}, buffer)
    return buffer.getvalue()


def pickled_weight(parts: Parts, marker: Path) -> None:
    config = json.loads(parts["data/weights/model_weights_config.json"])
    config["config"]["head.bias"]["use_pickle"] = True
    parts["data/weights/model_weights_config.json"] = json.dumps(config).encode()
    parts["data/weights/weight_5"] = boom(marker)


def pickled_constant(parts: Parts, marker: Path) -> None:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    parts["data/constants/model_constants_config.json"] = json.dumps({"config": {"c": entry}}).encode()
    parts["data/constants/opaque_obj_0"] = pickle.dumps(Boom(marker))


class Boom:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.marker), "w"))


def pickled_inputs(parts: Parts, marker: Path) -> None:
    parts["data/sample_inputs/model.pt"] = boom(marker)


@pytest.mark.parametrize("attack", [pickled_weight, pickled_constant, pickled_inputs])
def test_pickles_in_the_archive_run_in_torch_and_not_here(
    stored: Path, tmp_path: Path, attack: Callable[[Parts, Path], None]
) -> None:
    parts, marker = read(stored), tmp_path / "ran"
    attack(parts, marker)
    path = write(tmp_path / "hostile.pt2", parts)
    if attack is pickled_inputs:  # example inputs are left out, so that nothing in them is looked at
        assert load_model(path).scores(torch.zeros(2, 4)).shape == (2,)
    else:
        with pytest.raises(UntrustedFileError, match=r"in the place of the tensor|'data/constants/opaque_obj_0'"):
            load_model(path)
    assert not marker.exists()
    with contextlib.suppress(Exception):
        torch.export.load(path)  # the control: the attack is real, whether or not a model comes out of it
    assert marker.exists()


def edited(program: Any, steps: tuple[Any, ...], value: Any) -> None:
    for step in steps[:-1]:
        program = program[step]
    program[steps[-1]] = value


NODE = ("graph_module", "graph", "nodes", 0)
SIZE = ("graph_module", "graph", "tensor_values", "x", "sizes", 0, "as_expr", "expr_str")
SIGNATURE = ("graph_module", "module_call_graph", 0, "signature")


@pytest.mark.parametrize(
    ("steps", "value", "message"),
    [
        ((*NODE, "target"), "torch.os.system", r"the operator 'torch\.os\.system'"),
        ((*NODE, "target"), "torch.serialization.pickle.loads", "none of torch's own tensor operators"),
        ((*NODE, "target"), "torch.ops.aten.from_file.default", "from_file"),
        ((*NODE, "target"), "torch.ops.aten.no_such_operator.default", "no_such_operator"),
        ((*NODE, "target"), "torch.ops.mine.linear.default", "mine"),
        ((*NODE, "target"), "#mine.op", "#mine"),
        (SIZE, "__import__('os').system('true')", "the size .* evaluated as Python"),
        (SIZE, "Symbol('s77').__class__", "the size"),
        (SIZE, "Integer(9)**Integer(9)**Integer(9)", "the size"),
        ((*NODE, "name"), "linear=exec('raise SystemExit')", "the name"),
        (("graph_module", "graph", "inputs", 9, "as_tensor", "name"), "x=print('ran')", "the name"),
        (("graph_module", "signature", "input_specs", 0, "parameter", "parameter_name"), 'a"+b', "the name"),
        ((*NODE, "inputs", 0, "arg"), {"as_operator": "torch.os.system"}, r"function of its own \(as_operator\)"),
        ((*NODE, "inputs", 0, "arg"), {"as_custom_obj": {"name": "a", "class_fqn": "b"}}, "as_custom_obj"),
        (
            (*SIGNATURE, "in_spec"),
            json.dumps([1, {"type": "enum.Enum", "context": '{"__enum__": true, "fqn": "os:x"}', "children_spec": []}]),
            "inputs of the type",
        ),
        (
            (*SIGNATURE, "in_spec"),
            json.dumps(
                [1, {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "antigravity:x", "name": "y"}]',
                     "children_spec": []}]
            ),
            "inputs named",
        ),
    ],
)  # fmt: skip
def test_every_place_that_torch_evaluates_is_checked(
    stored: Path, tmp_path: Path, steps: tuple[Any, ...], value: Any, message: str
) -> None:
    parts = read(stored)
    program = json.loads(parts[PROGRAM])
    edited(program, steps, value)
    parts[PROGRAM] = json.dumps(program).encode()
    with pytest.raises(UntrustedFileError, match=message):
        load_model(write(tmp_path / "hostile.pt2", parts))


def test_guards_are_left_out(stored: Path, tmp_path: Path) -> None:
    parts, marker = read(stored), tmp_path / "ran"
    program = json.loads(parts[PROGRAM])
    program["guards_code"] = [f"open({str(marker)!r}, 'w') is not None"]
    parts[PROGRAM] = json.dumps(program).encode()
    model = load_model(write(tmp_path / "guarded.pt2", parts))
    assert model.scores(torch.zeros(3, 4)).shape == (3,)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("data/aotinductor/model/wrapper.so", UntrustedFileError, r"holds 'data/aotinductor.* no part of a plain"),
        ("models/second.json", UntrustedFileError, "several models"),
        ("data/weights/model.pt", UntrustedFileError, r"holds 'data/weights/model\.pt'"),
        ("data/constants/model.pt", UntrustedFileError, r"holds 'data/constants/model\.pt'"),
        ("data/constants/custom_obj_0", UntrustedFileError, "custom_obj_0"),
        ("data.pkl", UntrustedFileError, "TorchScript or pickle archive"),
        ("../../escape", UntrustedFileError, "leads out of it"),
    ],
)
def test_foreign_entries_are_refused(
    stored: Path, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_model(write(tmp_path / "hostile.pt2", read(stored) | {name: b"x"}))


def test_archives_that_mislead_readers_are_refused(stored: Path, tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.pt2", read(stored))
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(twice, "a", zipfile.ZIP_STORED) as archive,
    ):
        archive.writestr(f"net/{PROGRAM}", b"{}")
    with pytest.raises(UntrustedFileError, match=r"holds 'net/models/model\.json' twice"):
        load_model(twice)
    with pytest.raises(UntrustedFileError, match="compressed entries"):
        load_model(write(tmp_path / "small.pt2", read(stored), compressed=True))
    bomb = write(tmp_path / "bomb.pt2", read(stored) | {"data/weights/weight_9": bytes(2**27)}, compressed=True)
    with pytest.raises(UntrustedFileError, match=r"bytes would unpack to 134,\d+,\d+"):
        load_model(bomb)


def test_damaged_archives(stored: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(stored.read_bytes()[:2000])
    with pytest.raises(InputError, match="damaged or no archive"):
        load_model(cut)
    parts = read(stored)
    with pytest.raises(InputError, match=r"the tensor 'body\.0\.weight' is missing"):
        load_model(write(tmp_path / "a.pt2", {k: v for k, v in parts.items() if k != "data/weights/weight_0"}))
    config = json.loads(parts["data/weights/model_weights_config.json"])
    config["config"]["head.bias"]["tensor_meta"]["sizes"] = [{"as_int": 10**9}]
    huge = parts | {"data/weights/model_weights_config.json": json.dumps(config).encode()}
    with pytest.raises(InputError, match=r"'head\.bias' of shape \[1000000000\] is cut short"):
        load_model(write(tmp_path / "b.pt2", huge))
    with pytest.raises(InputError, match=r"no archive of the form that torch\.export\.save writes"):
        load_model(write(tmp_path / "c.pt2", {"version": b"7"}))
    with pytest.raises(InputError, match=r"models/model\.json cannot be read"):
        load_model(write(tmp_path / "d.pt2", parts | {PROGRAM: b"{"}))

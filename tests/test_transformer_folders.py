"""Folders of Hugging Face transformers: the same model as in Python, and nothing in them is run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

import auditkit as ak
from auditkit.errors import InputError, UntrustedFileError
from auditkit.feature_cache import list_entries
from auditkit.models import TransformerModel, load_model
from tests.transformer_folders import TINY, bert, import_transformers, save, vit

TEXTS = ["a good loan was repaid", "bad", "a loan was repaid late", "unheard of words"] * 10


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("bert"), bert())


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


def test_a_folder_of_text_is_the_model_given_in_python(saved: Path) -> None:
    module, tokenizer = bert()
    model, given = load_model(saved), load_model(module, preprocess=tokenizer)
    assert isinstance(model, TransformerModel)
    assert (model.name, model.task, model.n_features) == (saved.name, "binary", 16)
    assert (model.fingerprint, model.weights_sha256) == (given.fingerprint, given.weights_sha256)
    assert load_model(f"local-dir:{saved}").fingerprint == model.fingerprint
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = module.eval()(**encoded).logits
        pooled = module.bert(**encoded).pooler_output
    features, scores = model.features_and_scores(TEXTS)
    torch.testing.assert_close(scores, torch.softmax(logits, 1)[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(features, pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(features, model.features(pd.DataFrame({"review": TEXTS})))
    hidden = load_model(saved, features="bert.encoder.layer.1.output.LayerNorm").features(["bad"])
    with torch.no_grad():
        expected = module.bert(**tokenizer(["bad"], return_tensors="pt")).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=0)
    model.check_frozen()


def test_a_folder_of_images_brings_its_preprocessing(tmp_path: Path) -> None:
    module, processor = vit(labels=3)
    model = load_model(save(tmp_path / "vit", (module, processor)))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    transform = pickle.loads(pickle.dumps(model.image_transform()))  # it travels to worker processes
    prepared = transform(image.convert("RGB"))
    torch.testing.assert_close(prepared, processor(images=image, return_tensors="pt")["pixel_values"][0])
    with torch.no_grad():
        expected = torch.softmax(module.eval()(prepared[None]).logits, 1)
    torch.testing.assert_close(model.scores(prepared[None]), expected, atol=1e-6, rtol=0)
    assert model.features(prepared[None]).shape == (1, 16)
    chosen = load_model(tmp_path / "vit", output="LABEL_2")
    torch.testing.assert_close(chosen.scores(prepared[None]), expected[:, 2], atol=1e-6, rtol=0)
    assert chosen.image_transform() is not None


def test_labels_that_do_not_exclude_each_other_are_outputs_of_their_own(tmp_path: Path) -> None:
    module, tokenizer = bert(labels=2, problem_type="multi_label_classification")
    model = load_model(save(tmp_path / "many", (module, tokenizer)))
    with torch.no_grad():
        expected = torch.sigmoid(module.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits)
    assert not model.gives_one_score
    torch.testing.assert_close(model.scores(TEXTS), expected, atol=1e-5, rtol=0)
    chosen = load_model(tmp_path / "many", output=0)
    torch.testing.assert_close(chosen.scores(TEXTS), expected[:, 0], atol=1e-5, rtol=0)
    assert load_model(save(tmp_path / "one", bert(labels=1))).task == "regression"


@pytest.mark.parametrize("family", ["DistilBert", "Roberta", "GPT2"])
def test_other_families(tmp_path: Path, family: str) -> None:
    """No types of tokens, positions that begin behind the padding, and a model that reads the last token."""
    transformers = import_transformers()
    tokenizer = bert()[1]
    sizes = {
        "DistilBert": {"dim": 16, "hidden_dim": 20, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 32},
        "Roberta": {**TINY, "max_position_embeddings": 40, "type_vocab_size": 1, "pad_token_id": 0},
        "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
    }[family]
    config = getattr(transformers, f"{family}Config")(vocab_size=11, num_labels=2, **sizes)
    module = getattr(transformers, f"{family}ForSequenceClassification")(config)
    model = load_model(save(tmp_path / family, (module, tokenizer)))
    module.config.pad_token_id = 0
    with torch.no_grad():
        encoded = tokenizer("a good loan", return_tensors="pt")
        given = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        expected = torch.softmax(module.eval()(**given).logits, 1)[0, 1]
    torch.testing.assert_close(model.scores([*TEXTS[:3], "a good loan"])[3], expected, atol=1e-5, rtol=0)


def test_weights_in_shards_and_in_a_pickle_of_tensors(folder: Path) -> None:
    expected = load_model(folder)
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(stored, folder / "pytorch_model.bin")
    assert load_model(folder).fingerprint == expected.fingerprint
    (folder / "pytorch_model.bin").unlink()
    names = sorted(stored)
    shards = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for shard, held in shards.items():
        safetensors.torch.save_file({name: stored[name] for name in held}, folder / shard)
    index = folder / "model.safetensors.index.json"
    change(index, weight_map={name: shard for shard, held in shards.items() for name in held})
    assert load_model(folder).fingerprint == expected.fingerprint
    change(index, weight_map=dict.fromkeys(names, "../model-1.safetensors"))
    with pytest.raises(InputError, match="must name .safetensors files in the folder"):
        load_model(folder)


def test_half_precision_is_computed_in_full(folder: Path) -> None:
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file({n: t.bfloat16() for n, t in stored.items()}, folder / "model.safetensors")
    change(folder / "config.json", dtype="bfloat16")
    model = load_model(folder)
    assert model.features(TEXTS).dtype == torch.float32
    torch.testing.assert_close(
        model.scores(TEXTS), load_model(bert()[0], preprocess=bert()[1]).scores(TEXTS), atol=0.05, rtol=0
    )


class Payload:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


def test_nothing_in_a_folder_is_run(folder: Path) -> None:
    trap = folder / "trap"
    code = f"import pathlib\npathlib.Path({str(trap)!r}).touch()\n"
    (folder / "modeling_own.py").write_text(code + "class Own: ...\n")
    own = {"AutoConfig": "modeling_own.Own", "AutoModelForSequenceClassification": "modeling_own.Own"}
    expected = load_model(folder).scores(TEXTS)
    change(
        folder / "config.json",
        auto_map=own,
        attn_implementation="stranger/kernel",
        _attn_implementation="stranger/kernel",
    )
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_own.Own", None]})
    torch.testing.assert_close(load_model(folder).scores(TEXTS), expected)  # the library's own code
    change(folder / "config.json", model_type="own")
    with pytest.raises(UntrustedFileError, match="brings code of its own .* never run"):
        load_model(folder)
    change(folder / "config.json", model_type="bert")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(trap)}, folder / "pytorch_model.bin")
    with pytest.raises(UntrustedFileError, match="holds more than tensors"):
        load_model(folder)
    assert not trap.exists()


def backbone(folder: Path, made: tuple[Any, Any], name: str) -> tuple[Any, Any]:
    """A model without its head, as transformers saves one, and its preprocessing."""
    module = getattr(made[0], name).eval()
    save(folder, (module, made[1]))
    return module, made[1]


def test_a_text_model_without_a_head_gives_its_pooled_last_hidden_state(tmp_path: Path) -> None:
    module, tokenizer = backbone(tmp_path / "bert", bert(), "bert")
    given, model = load_model(module, preprocess=tokenizer), load_model(tmp_path / "bert")
    assert given.fingerprint == model.fingerprint
    assert (model.n_features, model.task, model.gives_one_score, model.class_names) == (16, "features", False, ())
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = module(**encoded).last_hidden_state
    there = encoded["attention_mask"].unsqueeze(2)
    expected = (hidden * there).sum(1) / there.sum(1)
    for one in (given, model):
        torch.testing.assert_close(one.features(TEXTS), expected, atol=1e-5, rtol=0)
    named = load_model(tmp_path / "bert", features="encoder.layer.1.output.LayerNorm")
    torch.testing.assert_close(named.features(TEXTS), expected, atol=1e-5, rtol=0)
    pooler = load_model(tmp_path / "bert", features="pooler.dense").features(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(pooler.tanh(), module(**encoded).pooler_output, atol=1e-5, rtol=0)
    model.check_frozen()
    with pytest.raises(InputError, match="'bert' has no head and gives features alone; where scores are needed, use"):
        model.scores(TEXTS)
    with pytest.raises(InputError, match="'bert' has no head and gives features alone"):
        model.features_and_scores(TEXTS)
    with pytest.raises(InputError, match="'bert' has no head and gives features alone"):
        model.as_module()
    for options in ({"task": "binary"}, {"output": 1}):
        with pytest.raises(InputError, match="BertModel has no head.*: leave task and output out"):
            load_model(tmp_path / "bert", **options)


def test_image_models_without_a_head_give_the_mean_over_places(tmp_path: Path) -> None:
    transformers = import_transformers()
    module, processor = backbone(tmp_path / "vit", vit(), "vit")
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32))
    model = load_model(tmp_path / "vit")  # of a classifier: without the layer that pools
    assert model.fingerprint == load_model(module, preprocess=processor).fingerprint
    with torch.no_grad():
        torch.testing.assert_close(model.features(images), module(images).last_hidden_state.mean(1), atol=1e-5, rtol=0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    convolution = transformers.ResNetModel(config).eval()
    found = load_model(convolution, preprocess=processor)
    assert found.n_features == 12
    with torch.no_grad():
        expected = convolution(images).last_hidden_state.mean((2, 3))
    torch.testing.assert_close(found.features(images), expected, atol=1e-5, rtol=0)


def test_a_head_is_tuned_on_a_model_without_one(tmp_path: Path) -> None:
    backbone(tmp_path / "bert", bert(), "bert")
    rng, n = np.random.default_rng(0), 600
    frame = pd.DataFrame({"letter": rng.choice(TEXTS[:4], n), "sex": rng.choice(["F", "M"], n)})
    frame["y"] = (frame["letter"].str.len() + rng.normal(0, 10, n) > 15).astype(int)
    frame.to_csv(tmp_path / "letters.csv", index=False)
    plan = {
        "name": "letters", "model": "bert", "tune": {"epochs": 5}, "methods": ["head", "calibrated"],
        "data": {"path": "letters.csv", "text": "letter", "attributes": ["sex"], "label": "y"},
        "criteria": [{"family": "ECP", "attributes": "sex", "tolerance": 0.05}],
    }  # fmt: skip
    config = ak.make_config(plan, folder=tmp_path).with_cache(tmp_path / "cache")
    ak.run_tune(config, out=tmp_path / "tuned")
    ak.run_compare(config, out=tmp_path / "compared")
    record = json.loads((tmp_path / "tuned" / "run.json").read_text())
    assert record["model"]["task"] == "features"
    assert record["reference"].endswith("the model has no head and no score of its own.")
    assert [(e.state, e.outputs) for e in list_entries(tmp_path / "cache")] == [("whole", ("features",))]
    with pytest.raises(InputError, match="'bert' has no head and gives features alone; where scores are needed, use"):
        ak.run_audit(config, out=tmp_path / "audited")


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "language model": (
        {"architectures": ["BertForMaskedLM"]},
        "is BertForMaskedLM, which gives neither scores nor features; use a BertForSequenceClassification or a BertM",
    ),
    "no class": ({"architectures": None}, "is of no named class, which gives neither scores nor features"),
    "other weights": ({"architectures": ["BertModel"]}, "its weights hold 2 tensors that BertModel does not have"),
    "unknown": ({"model_type": "own"}, "model_type 'own' is unknown to transformers 5"),
    "neither": ({"model_type": None}, "neither model_type, as transformers writes it, nor architecture"),
    "quantized": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "asks for code or weights from elsewhere"),
    "wide": ({"vocab_size": 10**12}, "describes 16,000,000,[0-9,]+ numbers, and its weights hold"),
    "deep": ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000, and its weights hold [0-9]+ tensors"),
    "other sizes": ({"hidden_size": 32}, "its weights do not fit its config.json"),
    "more labels": ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "its weights do not fit its config.json"),
    "wrong kinds": ({"hidden_size": "large"}, "transformers cannot build it from its config.json"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_that_does_not_fit(folder: Path, kind: str) -> None:
    values, message = CONFIGS[kind]
    change(folder / "config.json", **values)
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_folders_that_lack_something(folder: Path) -> None:
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    tokenizer = (folder / "tokenizer_config.json").read_text()
    change(folder / "tokenizer_config.json", pad_token=None)
    with pytest.raises(InputError, match="has no padding token"):
        load_model(folder)
    (folder / "tokenizer_config.json").write_text(tokenizer)
    headless = {name: value for name, value in stored.items() if "classifier" not in name}
    safetensors.torch.save_file(headless, folder / "model.safetensors")
    with pytest.raises(InputError, match="lack 2 tensors .* a layer that was never trained gives no scores"):
        load_model(folder)
    safetensors.torch.save_file({**stored, "other": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"hold 1 tensors that .* does not have \(other\)"):
        load_model(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(InputError, match="is damaged or no safetensors file"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no weights; there should be model.safetensors"):
        load_model(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="its tokenizer cannot be read"):
        load_model(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="has no tokenizer; there should be tokenizer.json"):
        load_model(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match="must be a mapping; got list"):
        load_model(folder)


def test_a_folder_of_images_without_its_processor(tmp_path: Path) -> None:
    save(tmp_path / "vit", vit())
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"has no preprocessor_config.json, which says how it reads an image"):
        load_model(tmp_path / "vit")


def test_audit_file_of_images_and_a_transformer(tmp_path: Path) -> None:
    """Audited and tuned through the cache, the processor in a worker process."""
    module, processor = vit()
    save(tmp_path / "vit", (module, processor))
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (36, 36, 3), np.uint8)) for _ in range(120)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    sex = rng.choice(["F", "M"], 120)
    frame = pd.DataFrame({"file": [f"{i}.png" for i in range(120)], "sex": sex, "y": rng.integers(0, 2, 120)})
    frame.to_csv(tmp_path / "faces.csv", index=False)
    (tmp_path / "audit.yaml").write_text("""
data: {path: faces.csv, images: {column: file, workers: 1, cache: kept}, attributes: [sex], label: y}
model: local-dir:vit
criteria: [{family: ECP, attributes: sex, tolerance: 0.05}]
tune: {epochs: 3}
""")
    config = ak.load_config(tmp_path / "audit.yaml")
    gap = ak.run_audit(config, out=tmp_path / "audited").outcome.findings[0].gap
    with torch.no_grad():
        scores = torch.softmax(module.eval()(**processor(images, return_tensors="pt")).logits, 1)[:, 1].numpy()
    assert gap == pytest.approx(abs(scores[sex == "F"].mean() - scores[sex == "M"].mean()), abs=1e-5)
    assert ak.run_tune(config, out=tmp_path / "tuned").after is not None
    (entry,) = list_entries(tmp_path / "kept")
    assert (entry.state, entry.rows) == ("whole", 120)

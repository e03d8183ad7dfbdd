"""Train the sample model on UCI Adult and write its weights, description, held-out rows and card.

    python sample_models/adult_mlp/build.py --adult PATH

PATH is a parquet file with the columns of UCI Adult (45,222 rows without missing values). One thread and one seed: a
second run on the same kind of machine writes the same bytes.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from auditkit.datasets import hash_file, split_rows
from auditkit.models import load_model
from auditkit.models.tabular import MLP, Architecture, CategoricalColumn, ModelFile, NumericColumn, Preprocessing

SEED = 2030
NUMERIC = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORICAL = ("workclass", "marital-status", "occupation", "relationship", "native-country")
ATTRIBUTES = ("sex", "race")
LABEL = "income_over_50k"


@dataclass(frozen=True)
class Recipe:
    """What a model reads and how it is trained.

    Attributes:
        name: Of the model.
        output: What its logit is, in words.
        numeric: Columns of numbers.
        categorical: Columns of text.
        label: Column of the outcome, 0 or 1.
        train_rows: Rows that the model is made with.
        tune_rows: How many of these only choose the number of epochs.
        hidden: Widths of the hidden layers.
        log1p: Numbers read on a logarithmic scale.
        max_epochs: Most passes over the rows.
        patience: Epochs without a better loss on the tuning rows before stopping.
        batch: Rows per step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
    """

    name: str
    output: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    label: str
    train_rows: int
    tune_rows: int
    hidden: tuple[int, ...] = (64, 32)
    log1p: tuple[str, ...] = ()
    max_epochs: int = 40
    patience: int = 5
    batch: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.1


RECIPE = Recipe(
    name="adult_mlp",
    output="log-odds of earning more than 50,000 dollars a year",
    numeric=NUMERIC,
    categorical=CATEGORICAL,
    label=LABEL,
    train_rows=30_000,
    tune_rows=3_000,
)


@dataclass(frozen=True)
class Split:
    """Rows to fit, rows to choose the epoch by, rows never seen."""

    fit: pd.DataFrame
    tune: pd.DataFrame
    heldout: pd.DataFrame

    @property
    def train(self) -> pd.DataFrame:
        """All rows that the model was made with."""
        return pd.concat([self.fit, self.tune], ignore_index=True)


def read_adult(path: Path) -> pd.DataFrame:
    """UCI Adult with plain strings, the columns used and the label as 0 or 1."""
    raw = pd.read_parquet(path)
    texts = {column: raw[column].astype(str).str.strip() for column in (*CATEGORICAL, *ATTRIBUTES)}
    label = (raw["salary"].astype(str).str.strip().str.rstrip(".") == ">50K").astype(np.int64)
    return raw[list(NUMERIC)].astype(np.int64).assign(**texts, **{LABEL: label})


def split(frame: pd.DataFrame, recipe: Recipe, *, seed: int) -> Split:
    """Split with the same share of labels in every part."""
    n, fit_rows = len(frame), recipe.train_rows - recipe.tune_rows
    fractions = {"fit": fit_rows / n, "tune": recipe.tune_rows / n, "heldout": 1 - recipe.train_rows / n}
    rows = split_rows(n, fractions=fractions, seed=seed, stratify=frame[recipe.label].to_numpy())
    return Split(**{part: frame.iloc[index].reset_index(drop=True) for part, index in rows.items()})


def describe(train: pd.DataFrame, recipe: Recipe) -> ModelFile:
    """The model's description, with means, deviations and vocabularies of the training rows."""
    numeric = [_numeric_column(train, column, log1p=column in recipe.log1p) for column in recipe.numeric]
    categorical = [
        CategoricalColumn(column=c, vocabulary=sorted(train[c].unique().tolist())) for c in recipe.categorical
    ]
    return ModelFile(
        format="auditkit.tabular_mlp",
        format_version=1,
        name=recipe.name,
        task="binary",
        architecture=Architecture(hidden=list(recipe.hidden), activation="relu"),
        preprocessing=Preprocessing(numeric=numeric, categorical=categorical),
        output=recipe.output,
    )


def _numeric_column(train: pd.DataFrame, column: str, *, log1p: bool) -> NumericColumn:
    values = train[column].to_numpy(np.float64)
    values = np.log1p(values) if log1p else values
    mean, std = round(float(values.mean()), 6), round(float(values.std()), 6)
    return NumericColumn(column=column, mean=mean, std=std, log1p=log1p)


def train(content: ModelFile, parts: Split, recipe: Recipe, *, seed: int) -> tuple[MLP, int]:
    """Fit by AdamW until the loss on the tuning rows stops falling; return the best network and its epoch."""
    torch.manual_seed(seed)
    network = MLP(content.preprocessing.width, content.architecture)
    inputs, labels = tensors(content, parts.fit, recipe.label)
    tune_inputs, tune_labels = tensors(content, parts.tune, recipe.label)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    best, best_loss, best_epoch = network, float("inf"), 0
    for epoch in range(1, recipe.max_epochs + 1):
        run_epoch(network, optimizer, inputs, labels, batch=recipe.batch)
        with torch.no_grad():
            loss = float(nn.functional.binary_cross_entropy_with_logits(network(tune_inputs), tune_labels))
        if loss < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(network), loss, epoch
        if epoch - best_epoch >= recipe.patience:
            break
    return best, best_epoch


def run_epoch(network: MLP, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor, *, batch: int) -> None:
    """One pass over the rows in random order."""
    for rows in torch.randperm(len(inputs)).split(batch):
        loss = nn.functional.binary_cross_entropy_with_logits(network(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def tensors(content: ModelFile, frame: pd.DataFrame, label: str) -> tuple[Tensor, Tensor]:
    """Encoded inputs and labels of a frame."""
    encoded, _ = content.preprocessing.encode(frame)
    return torch.from_numpy(encoded), torch.from_numpy(frame[label].to_numpy(np.float32))


def fit(frame: pd.DataFrame, recipe: Recipe, *, seed: int) -> tuple[Split, ModelFile, MLP, int]:
    """Split and train on one thread: the parts, the description, the network and its epoch."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    parts = split(frame, recipe, seed=seed)
    content = describe(parts.train, recipe)
    network, epoch = train(content, parts, recipe, seed=seed)
    return parts, content, network, epoch


def measure(scores: NDArray[np.float64], frame: pd.DataFrame, label: str) -> dict[str, float]:
    """Accuracy at 0.5 and area under the ROC curve."""
    labels = frame[label].to_numpy()
    accuracy = float(((scores >= 0.5) == (labels == 1)).mean())
    return {"accuracy": round(accuracy, 6), "auc": round(float(roc_auc_score(labels, scores)), 6), "rows": len(frame)}


def expected_audit(scores: NDArray[np.float64], frame: pd.DataFrame) -> dict[str, Any]:
    """Per attribute: counts and means of every group, and the largest differences between groups."""
    table = frame.assign(score=scores, selected=(scores >= 0.5).astype(float))
    return {attribute: _expected_groups(table.groupby(attribute)) for attribute in ATTRIBUTES}


def _expected_groups(grouped: Any) -> dict[str, Any]:
    means = grouped[["score", "selected", LABEL]].mean()
    means.columns = ["mean_score", "selection_rate", "positive_label_rate"]
    groups = means.round(6).assign(rows=grouped.size()).to_dict(orient="index")
    gaps = (means.max() - means.min()).round(6)
    return {"groups": groups, "mean_score_gap": gaps["mean_score"], "selection_rate_gap": gaps["selection_rate"]}


def write_model(folder: Path, content: ModelFile, network: MLP, heldout: pd.DataFrame) -> None:
    """Write weights, description and held-out rows."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    weights.chmod(0o644)  # safetensors lets only the owner read what it writes
    write_json(folder / "model.json", content.model_dump())
    heldout.to_parquet(folder / "heldout.parquet", index=False, compression="zstd")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def card(folder: Path, parts: Split, *, seed: int, epoch: int) -> dict[str, Any]:
    """What the model is, where its data come from, and what an audit of it should find."""
    model = load_model(folder)
    heldout = pd.read_parquet(folder / "heldout.parquet")
    scores, seen = (model.scores(rows).double().numpy() for rows in (heldout, parts.train))
    files = ("heldout.parquet", "model.json", "model.safetensors")
    return {
        "name": "adult_mlp",
        "task": "predict from census data whether a person earns more than 50,000 dollars a year",
        "features": [*NUMERIC, *CATEGORICAL],
        "label": LABEL,
        "attributes": list(ATTRIBUTES),
        "data": {
            "source": "UCI Machine Learning Repository, Adult (Becker and Kohavi, 1996)",
            "doi": "10.24432/C5XW20",
            "licence": "CC BY 4.0",
            "changes": "rows with missing values removed; fnlwgt and education dropped; salary turned into 0 or 1; "
            f"{len(heldout):,} rows held out of training at random are bundled",
        },
        "weights_licence": "MIT",
        "sha256": {name: hash_file(folder / name) for name in files},
        "fingerprint": model.fingerprint,
        "training": {
            "command": "python sample_models/adult_mlp/build.py --adult PATH",
            "seed": seed,
            "rows": len(parts.train),
            "epochs": epoch,
            "sex_and_race_are_inputs": False,
        },
        "measured": {"train": measure(seen, parts.train, LABEL), "heldout": measure(scores, heldout, LABEL)},
        "expected_audit": expected_audit(scores, heldout),
    }


def build(adult: Path, folder: Path, *, seed: int) -> dict[str, Any]:
    """Run everything and return the card."""
    parts, content, network, epoch = fit(read_adult(adult), RECIPE, seed=seed)
    write_model(folder, content, network, parts.heldout)
    content_card = card(folder, parts, seed=seed, epoch=epoch)
    write_json(folder / "card.json", content_card)
    return content_card


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adult", type=Path, required=True, help="parquet file of UCI Adult")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write (default: this one)")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    print(json.dumps(build(options.adult, options.out, seed=options.seed)["measured"], indent=2))


if __name__ == "__main__":
    main()

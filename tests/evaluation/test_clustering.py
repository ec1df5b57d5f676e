"""Accuracy of classes, and the agreement of clusters with classes."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import one_hot

from pyro_vae import Spec, build, evaluate
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation.latent_codes.clustering import Clustering, LabelAccuracy, clustering, label_accuracy


def test_the_best_matching_is_that_of_all_permutations():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        clusters, labels = torch.randint(0, 4, (2, 200), generator=generator)
        best = max((torch.tensor(p)[clusters] == labels).sum().item() for p in itertools.permutations(range(4)))
        assert clustering(one_hot(clusters, 4).float(), labels).cluster_accuracy == best / 200


def test_names_of_clusters_are_of_no_account_and_unknown_labels_are_left_out():
    labels = torch.arange(100) % 5
    shuffled = one_hot((labels + 3) % 5, 7).float()
    result = clustering(shuffled, labels)
    assert (result.cluster_accuracy, result.clusters_used) == (1.0, 5)
    assert result.cluster_nmi == pytest.approx(1.0)
    unknown = torch.where(torch.arange(100) < 50, labels, -1)
    shuffled[50:] = one_hot(torch.tensor(0), 7).float()
    assert clustering(shuffled, unknown).cluster_accuracy == 1.0
    result = label_accuracy(one_hot(labels, 5).float(), unknown)
    assert (result.label_accuracy, result.label_accuracy_se) == (1.0, 0.0)


def test_a_collapsed_clustering_has_the_accuracy_of_the_largest_class_and_no_information():
    labels = torch.tensor([0] * 60 + [1] * 40)
    result = clustering(one_hot(torch.zeros(100, dtype=torch.long), 10).float(), labels)
    assert (result.cluster_accuracy, result.clusters_used) == (pytest.approx(0.6), 1)
    assert result.cluster_nmi == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("function", [clustering, label_accuracy])
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.ones(3), torch.zeros(3, dtype=torch.long), "probabilities: .* expected a matrix"),
        (torch.ones(3, 2), torch.zeros(2, dtype=torch.long), r"labels: given \(2,\), expected one label per image"),
        (torch.ones(3, 2), torch.zeros(3), "labels: .* expected one label per image"),
        (torch.ones(3, 2), torch.full((3,), -1), "labels: given 'none that is known'"),
        (torch.full((3, 2), math.nan), torch.zeros(3, dtype=torch.long), "probabilities: given 'NaN or infinity'"),
    ],
)
def test_bad_input(function, probabilities, labels, message):
    with pytest.raises(InputError, match=message):
        function(probabilities, labels)


def test_labels_of_no_class_are_refused_and_there_may_be_fewer_clusters_than_classes():
    probabilities, labels = torch.eye(2)[torch.tensor([0, 0, 1])], torch.tensor([0, 5, -1])
    with pytest.raises(InputError, match="labels: given 5, expected labels below 2, the columns of probabilities"):
        label_accuracy(probabilities, labels)
    assert clustering(probabilities, labels).cluster_accuracy == 0.5


def test_evaluation_has_them_where_a_model_infers_classes_or_clusters(digits):
    images = digits.test.take(slice(0, 60))
    of_labels = Spec(model="semi-supervised", latent_dim=2, hidden=(8,), binarization="threshold")
    of_clusters = Spec(model="mixture", latent_dim=2, hidden=(8,), binarization="threshold")
    for spec, names in ((of_labels, LabelAccuracy), (of_clusters, Clustering)):
        model = build(spec).eval()
        measured = evaluate(model, images, metrics=["codes"], device="cpu").to_dict()
        with torch.no_grad():
            probabilities = model.classify((images.pixels >= 128).float())
        function = label_accuracy if names is LabelAccuracy else clustering
        expected = vars(function(probabilities, images.labels))
        assert expected.items() <= measured.items()
        assert {"label_accuracy", "cluster_accuracy"} & measured.keys() == {"label_accuracy", "cluster_accuracy"} & {
            *expected
        }
        unknown = evaluate(model, images.with_known_labels(0), metrics=["codes"], device="cpu").to_dict()
        assert not expected.keys() & unknown.keys()


def test_the_evidence_is_that_of_images_without_their_labels(digits):
    """Whatever labels the images come with; and it lies above the ELBO of the same model."""
    images = digits.test.take(slice(0, 20))
    model = build(Spec(model="semi-supervised", latent_dim=2, hidden=(8,), binarization="threshold"))
    told, hidden = (
        evaluate(model, chosen, metrics=["bounds", "evidence"], k=50, device="cpu")
        for chosen in (images, images.with_known_labels(0))
    )
    assert told.nll_nats == hidden.nll_nats
    assert told.elbo_nats == hidden.elbo_nats
    assert -told.nll_nats > told.elbo_nats
    assert {"y", "z"} == told.kl_by_site.keys()

"""Labels that are known of some images only."""

import pytest
import torch

from pyro_vae import Images, Splits
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation.latent_codes.probes import probe_accuracy
from pyro_vae.evaluation.samples.classifier import check_classifiable
from pyro_vae.experiments.figures.trained_runs import choose, classes_of
from pyro_vae.latent import to_plane
from pyro_vae.plots import latent_scatter


def test_known_labels_are_drawn_evenly_and_the_others_are_unknown(digits):
    images = digits.train
    for n, counts in ((100, [10] * 10), (103, [11] * 3 + [10] * 7), (0, [])):
        partly = images.with_known_labels(n, seed=1)
        known = partly.labels >= 0
        assert sorted(partly.labels[known].bincount().tolist(), reverse=True) == counts
        assert torch.equal(partly.labels[known], images.labels[known])
        assert bool((partly.labels[~known] == -1).all())
    assert torch.equal(images.with_known_labels(100, 1).labels, images.with_known_labels(100, 1).labels)
    assert not torch.equal(images.with_known_labels(100, 1).labels, images.with_known_labels(100, 2).labels)
    fewer = images.with_known_labels(100).with_known_labels(50)  # of those that are known
    assert bool((images.with_known_labels(100).labels[fewer.labels >= 0] >= 0).all())
    few = Images(images.pixels[:6], [0, 0, 0, 0, 1, -1]).with_known_labels(4)
    assert few.labels[few.labels >= 0].bincount().tolist() == [3, 1]
    assert Images(images.pixels[:2]).with_known_labels(0).labels.tolist() == [-1, -1]
    with pytest.raises(InputError, match=r"n: given 3, expected at most 2, the known labels of images"):
        Images(images.pixels[:3], [0, -1, 1]).with_known_labels(3)
    with pytest.raises(InputError, match="labels: given -2, expected labels of at least 0, or -1 where unknown"):
        Images(images.pixels[:2], [0, -2])


def test_unknown_labels_are_refused_or_left_out_where_labels_are_used(digits):
    partly = digits.test.with_known_labels(40)
    codes = torch.randn(len(partly), 2)
    with pytest.raises(InputError, match="labels: given -1, expected labels of at least 0"):
        probe_accuracy(codes, partly.labels, codes, digits.test.labels)
    with pytest.raises(InputError, match="test images whose labels are all known; some of digits are not"):
        check_classifiable(Splits(digits.train, partly))
    chosen = choose(partly, 10, per_class=2, seed=0)
    assert chosen.labels.bincount().tolist() == [2] * 10
    assert set(classes_of(partly)) == {*"0123456789", "unknown"}
    with pytest.raises(InputError, match="images with labels, which digits lacks"):
        choose(digits.test.with_known_labels(0), 10, per_class=2, seed=0)
    figure = latent_scatter(to_plane(codes), partly.labels, partly.class_names)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["unknown", *"0123456789"]

import pytest
import torch
from PIL import Image
from torch import nn

from pyro_vae import Images, Spec, Splits, build, evaluate, load_data
from pyro_vae._utils.checks import InputError
from pyro_vae.data.noise import image_keys
from pyro_vae.evaluation import Features, ModuleExtractor, extract, extract_cached, in_domain_classifier
from pyro_vae.evaluation.samples import classifier as classifiers
from pyro_vae.evaluation.samples import extractors, features, scores


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("classifiers")


def test_the_classifier_of_the_digits_is_good_and_trained_once(digits, cache, monkeypatch):
    classifier = in_domain_classifier(digits, cache=cache, device="cpu", progress=False)
    assert classifier.accuracy >= 0.98
    logits = extract(classifier, digits.test.pixels, device="cpu").logits
    assert (logits.argmax(1) == digits.test.labels).double().mean().item() == classifier.accuracy
    monkeypatch.setattr(classifiers, "_train_classifier", lambda *_: pytest.fail("trained twice"))
    cached = in_domain_classifier(digits, cache=cache, device="cpu", progress=False)
    assert (cached.name, cached.accuracy) == (classifier.name, classifier.accuracy)
    assert cached.name == f"digits-convnet-128@{features.fingerprint(classifier)[:8]}"


def quick_splits():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    pixels = (labels * 200)[:, None, None, None] + torch.randint(0, 50, (64, 1, 8, 8), generator=generator)
    images = Images(pixels.to(torch.uint8), labels, "quick/set")
    return Splits(images, images)


def test_training_is_deterministic_and_a_damaged_cache_is_made_anew(tmp_path):
    splits = quick_splits()
    state = torch.get_rng_state()
    first = in_domain_classifier(splits, cache=tmp_path, device="cpu", progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.accuracy == 1.0
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert in_domain_classifier(splits, cache=tmp_path, device="cpu", progress=False).name == first.name


def test_relu_after_pooling_trains_the_very_same_weights(tmp_path, monkeypatch):
    """Scores of the documents name their classifier by the fingerprint of its weights."""
    splits = quick_splits()
    fast = in_domain_classifier(splits, cache=tmp_path / "fast", device="cpu", progress=False)
    assert fast._order == [0, 1, 3, 2, 4, 5, 7, 6, 8, 9, 10, 11]
    original = classifiers.Classifier.__init__

    def in_order(self, *arguments):
        original(self, *arguments)
        self._order = list(range(len(self.body)))

    monkeypatch.setattr(classifiers.Classifier, "__init__", in_order)
    plain = in_domain_classifier(splits, cache=tmp_path / "plain", device="cpu", progress=False)
    assert plain.name == fast.name
    x = splits.test.as_float()
    assert torch.equal(plain(x).pool, fast(x).pool)


def test_a_first_training_says_what_takes_long_and_how_to_do_without(tmp_path, capsys):
    in_domain_classifier(quick_splits(), cache=tmp_path, device="cpu")
    line = capsys.readouterr().err.splitlines()[0]  # on a slow machine a line now and then says how far it is
    assert line.startswith("classifier of quick/set: being trained for the scores of samples, once, about ")
    assert "s left; it is then in the cache" in line
    assert "`pyro-vae evaluate --extractor none`" in line
    in_domain_classifier(quick_splits(), cache=tmp_path, device="cpu")
    assert capsys.readouterr().err == ""


def test_scores_of_real_images_are_computed_once_for_all_models(digits, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path))
    classifier = in_domain_classifier(digits, cache=cache, device="cpu", progress=False)
    counted, distance = [], scores.frechet_from_features
    monkeypatch.setattr(scores, "frechet_from_features", lambda *arguments: counted.append(1) or distance(*arguments))

    def real_scores(latent_dim, **more):
        options = {"metrics": ["samples"], "extractor": classifier, "train": digits.train, "device": "cpu"} | more
        return evaluate(build(Spec(latent_dim=latent_dim)), digits.test, **options).real_scores

    first = real_scores(2)
    assert len(counted) == 2
    assert real_scores(3) == first
    assert len(counted) == 3  # of the samples alone
    (path,) = (tmp_path / "scores").iterdir()
    path.write_text(path.read_text()[:-9])
    assert real_scores(2) == first  # a damaged file is made anew
    assert len(counted) == 5
    assert real_scores(2, seed=1) != first
    assert real_scores(2, num_generated=100) != first
    assert len(counted) == 9


def test_features_do_not_depend_on_the_batch_size(digits, cache):
    classifier = in_domain_classifier(digits, cache=cache, device="cpu", progress=False)
    whole, parts = (extract(classifier, digits.test.pixels, batch_size=size, device="cpu") for size in (359, 100))
    torch.testing.assert_close(whole.pool, parts.pool, rtol=1e-5, atol=1e-5)
    assert whole.pool.shape == (359, classifier.num_features)
    assert bool((whole.pool >= 0).all())


def test_scores_carry_their_extractor(digits, cache):
    classifier = in_domain_classifier(digits, cache=cache, device="cpu", progress=False)
    model = build(Spec(latent_dim=2))
    metrics = evaluate(
        model, digits.test, binarization="threshold", extractor=classifier, num_generated=200, device="cpu"
    )
    numbers = metrics.to_dict()
    assert numbers["extractor"] == classifier.name
    assert numbers["provenance"]["frechet"]["extractor_accuracy"] == classifier.accuracy
    assert numbers["provenance"]["frechet"]["num_generated"] == 200
    assert numbers["frechet"] > 10  # an untrained model
    assert 1 <= numbers["inception_score_mean"] < 4


def test_scores_of_real_images_are_of_as_many_and_of_all_classes(digits, cache):
    """A floor at another sample size is none, and sets from folders are sorted by class."""
    classifier = in_domain_classifier(digits, cache=cache, device="cpu", progress=False)
    by_class = digits.train.take(digits.train.labels.argsort())
    options = {"metrics": ["samples"], "extractor": classifier, "device": "cpu"}
    by_count = {n: evaluate(build(Spec()), digits.test, train=by_class, num_generated=n, **options) for n in (60, 300)}
    assert by_count[60].real_scores["frechet"] > 1.5 * by_count[300].real_scores["frechet"]
    assert by_count[300].real_scores["inception_score_mean"] > 8
    assert by_count[300].provenance["real_scores"]["num_real"] == 300
    assert "(real" in {label: value for label, value, _ in by_count[300].rows()}["Frechet distance"]


def test_the_classifier_is_not_trained_on_the_images_that_it_holds_out(digits, tmp_path, monkeypatch):
    trained_on = []
    monkeypatch.setattr(classifiers, "_train_classifier", lambda classifier, seen, *_: trained_on.append(seen))
    with pytest.warns(UserWarning, match="not clearly better than chance"):  # it is not trained at all
        classifier = in_domain_classifier(digits, cache=tmp_path, device="cpu", progress=False)
    unseen, (seen,) = classifier.unseen(digits.train), trained_on
    assert len(unseen) == classifier.held_out == len(digits.train) // 4 == len(digits.test)
    keys = image_keys(digits.train.pixels), image_keys(seen.pixels), image_keys(unseen.pixels)
    assert torch.equal(torch.cat(keys[1:]).sort().values, keys[0].sort().values)
    shuffled = digits.train.take(torch.randperm(1438, generator=torch.Generator().manual_seed(0))[:700])
    assert torch.isin(image_keys(classifier.unseen(shuffled).pixels), keys[2]).all()
    assert classifier.unseen(seen) is None
    with pytest.warns(UserWarning, match="not clearly better than chance"):
        cached = in_domain_classifier(digits, cache=tmp_path, device="cpu", progress=False)
    assert (cached.last_key, cached.held_out) == (classifier.last_key, classifier.held_out)


def test_real_images_are_scored_on_those_that_the_classifier_was_not_trained_on(digits, cache, monkeypatch, tmp_path):
    """It is surer of those that it was trained on, and its features of them are others."""
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path))
    classifier = in_domain_classifier(digits, cache=cache, device="cpu", progress=False)
    unseen = classifier.unseen(digits.train)
    options = {"metrics": ["samples"], "extractor": classifier, "train": digits.train, "device": "cpu"}
    metrics = evaluate(build(Spec()), digits.test, num_generated=400, **options)
    assert metrics.provenance["real_scores"]["real_sha256"] == unseen.fingerprint
    assert metrics.provenance["real_scores"]["num_real"] == 359
    assert "(real of 359 images" in {label: value for label, value, _ in metrics.rows()}["Frechet distance"]
    keys = image_keys(digits.train.pixels)
    seen = digits.train.take(keys > classifier.last_key).draw(359)
    floor, trained = (
        scores.score_samples(*(extract(classifier, part.pixels, device="cpu") for part in (images, digits.test)), 10, 0)
        for images in (unseen, seen)
    )
    assert floor["frechet"] == pytest.approx(metrics.real_scores["frechet"], rel=1e-4)
    assert floor["confidence"] < trained["confidence"]


def test_without_enough_unseen_images_there_is_no_score_of_real_ones(digits):
    class AllSeen(Flat):
        def unseen(self, images):
            return None

    for extractor, count in ((AllSeen(), 0), (Flat(), 359)):
        metrics = evaluate(build(Spec()), digits.test, train=digits.train, extractor=extractor, metrics=["samples"])
        assert (metrics.real_scores is None) == (count == 0)
        assert metrics.provenance["frechet"]["num_real"] == count


def two_classes(n=64, classes=2):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % classes, "noise")


@pytest.mark.parametrize("splits", [(1, 1), (2, 1), (1, 2)])
def test_a_classifier_of_one_class_is_refused(splits, tmp_path):
    """It is always right, and its features are alike: a Frechet distance of 0 for any sample."""
    train, test = (two_classes(classes=classes) for classes in splits)
    with pytest.raises(InputError, match="extractor: given 'classifier', .*images of at least 2 classes"):
        in_domain_classifier(Splits(train, test), cache=tmp_path, device="cpu", progress=False)


def test_one_nested_folder_is_no_data_set_of_classes(tmp_path):
    folder = tmp_path / "set" / "all" / "images"
    folder.mkdir(parents=True)
    for index, pixels in enumerate(two_classes().pixels):
        Image.fromarray(pixels[0].numpy()).save(folder / f"{index}.png")
    with pytest.raises(InputError, match="extractor: given 'classifier', expected a data set with labels"):
        in_domain_classifier(load_data(str(tmp_path / "set")), cache=tmp_path, device="cpu", progress=False)


def test_a_classifier_at_chance_is_warned_of_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "_epochs_of", lambda train: 1)
    noise = two_classes(400)
    splits = Splits(noise.take(slice(0, 300)), noise.take(slice(300, 400)))
    for _ in range(2):  # trained, and from the cache
        with pytest.warns(
            UserWarning, match=r"of 100 test images, of which 50\.0% are of one class: not clearly better than"
        ):
            in_domain_classifier(splits, cache=tmp_path, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda x: (torch.ones(len(x), 4), None), "expected features that differ between the images of digits"),
        (lambda x: (torch.ones(len(x), 4) + 1e-8 * x.mean(), None), "expected features that differ"),
        (lambda x: (x.flatten(1)[:, 18:22], torch.zeros(len(x), 1)), "expected logits of at least 2 classes"),
    ],
)
def test_an_extractor_that_sees_no_difference_is_refused(digits, module, message):
    class Degenerate(nn.Module):
        forward = staticmethod(module)

    # Another name: the cache knows a module without weights by it.
    extractor = ModuleExtractor(Degenerate(), message[-8:], 4)
    with pytest.raises(InputError, match=f"extractor: given '.*{message}"):
        evaluate(build(Spec()), digits.test, metrics=["samples"], extractor=extractor, device="cpu")


class Flat(nn.Module):
    """Anyone's own module is an extractor."""

    name, num_features = "pixels", 64

    def forward(self, images):
        return Features(images.flatten(1), None)


def test_features_of_real_images_are_cached_by_extractor_and_images(digits, tmp_path):
    calls = []

    class Counting(Flat):
        def forward(self, images):
            calls.append(len(images))
            return super().forward(images)

    first, second = (extract_cached(Counting(), digits.test, cache=tmp_path, device="cpu") for _ in range(2))
    assert sum(calls) == 359
    assert torch.equal(first.pool, second.pool)
    assert second.logits is None
    extract_cached(Counting(), digits.train, cache=tmp_path, device="cpu")
    other = Counting()
    other.name = "pixels@other"
    extract_cached(other, digits.test, cache=tmp_path, device="cpu")
    assert sum(calls) == 359 * 2 + 1438
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    assert torch.equal(extract_cached(Counting(), digits.test, cache=tmp_path, device="cpu").pool, first.pool)


def test_any_module_can_be_an_extractor(tiny):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
    extractor = ModuleExtractor(module, "mine", 16)
    before = extractor.name
    assert before == f"mine-16@{features.fingerprint(module)[:8]}"
    with torch.no_grad():
        module[1].weight.mul_(2)
    assert extractor.name != before  # so no cache of the old weights is read
    pools = [ModuleExtractor(nn.Sequential(nn.AvgPool2d(size), nn.Flatten()), "pool", 1).name for size in (2, 4)]
    assert pools[0] != pools[1]  # without any weights
    assert extract(extractor, tiny.pixels, device="cpu").pool.shape == (12, 16)
    with pytest.raises(InputError, match=r"module: given .*\(12, 16\)', expected \(12, 15\)"):
        extract(ModuleExtractor(module, "mine", 15), tiny.pixels, device="cpu")


def test_an_extractor_without_logits_gives_no_inception_score(digits):
    metrics = evaluate(build(Spec(latent_dim=2)), digits.test, binarization="threshold", extractor=Flat(), device="cpu")
    assert metrics.extractor == "pixels"
    assert metrics.frechet is not None
    assert metrics.inception_score_mean is None


def test_weights_are_looked_for_in_order_and_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    name = "inception-2015-12-05"
    with pytest.raises(
        InputError, match=r"weights: given .*pt_inception-2015-12-05-6726825d\.pth, from https://github"
    ):
        extractors.find_weights(name)
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / "pt_inception-2015-12-05-6726825d.pth").touch()
    assert extractors.find_weights(name).name.startswith("pt_inception")
    (hub / "weights-inception-2015-12-05-6726825d.pth").touch()
    assert extractors.find_weights(name).name.startswith("weights-inception")
    (tmp_path / "env.pth").touch()
    monkeypatch.setenv("PYRO_VAE_INCEPTION", str(tmp_path / "env.pth"))
    assert extractors.find_weights(name).name == "env.pth"
    (tmp_path / "mine.pth").touch()
    assert extractors.find_weights(name, tmp_path / "mine.pth").name == "mine.pth"
    with pytest.raises(InputError, match="other"):
        extractors.find_weights(name, tmp_path / "other.pth")


def test_torchvisions_inception_from_a_file(tmp_path, monkeypatch):
    from torchvision.models import inception_v3

    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "random.pth")
    with pytest.raises(InputError, match="SHA-256 begins with .*, not 0cc3c7bd"):
        extractors.InceptionTorchvision(tmp_path / "random.pth")
    monkeypatch.setitem(extractors._INCEPTION_DIGESTS, "inception-torchvision", "")
    extractor = extractors.InceptionTorchvision(tmp_path / "random.pth")
    assert extractor.name.startswith("inception-torchvision@")
    extracted = extract(extractor, torch.zeros(2, 1, 28, 28, dtype=torch.uint8), device="cpu")
    assert (extracted.pool.shape, extracted.logits.shape) == ((2, 2048), (2, 1000))
    torch.testing.assert_close(extracted.logits, extractor.head(extracted.pool))


def test_the_inception_of_2015_from_a_file(tmp_path, monkeypatch):
    fidelity = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="the extra fid is not installed"
    )
    kind = fidelity.FeatureExtractorInceptionV3
    torch.save({}, tmp_path / "empty.pth")
    with monkeypatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        random = kind("random", ["2048"], feature_extractor_weights_path=str(tmp_path / "empty.pth"))
    torch.save(random.state_dict(), tmp_path / "random.pth")
    with pytest.raises(InputError, match="SHA-256 begins with .*, not 6726825d"):
        extractors.Inception2015(tmp_path / "random.pth")
    monkeypatch.setitem(extractors._INCEPTION_DIGESTS, "inception-2015-12-05", "")
    extractor = extractors.Inception2015(tmp_path / "random.pth")
    assert extractor.name.startswith("inception-2015-12-05@")
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    extracted = extract(extractor, grey, device="cpu")
    assert (extracted.pool.shape, extracted.logits.shape) == ((2, 2048), (2, 1008))
    torch.testing.assert_close(extracted.pool, random(grey.expand(-1, 3, -1, -1))[0])
    for content in ({}, [1, 2], 3):
        torch.save(content, tmp_path / "wrong.pth")
        with pytest.raises(InputError, match="the published weights of inception-2015-12-05"):
            extractors.Inception2015(tmp_path / "wrong.pth")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda tiny, _: extractors.by_name("inception", Splits(tiny, tiny)),
            "extractor: given 'inception', .*did you mean",
        ),
        (
            lambda tiny, _: in_domain_classifier(Splits(Images(tiny.pixels), Images(tiny.pixels))),
            "extractor: given 'classifier', expected a data set with labels",
        ),
        (
            lambda _, path: extractors.InceptionTorchvision(path),
            "weights: given .*the published weights of inception-torchvision",
        ),
        (
            lambda tiny, _: in_domain_classifier(Splits(*[Images(tiny.pixels[:, :, :3], tiny.labels)] * 2)),
            "at least 4x4 pixels",
        ),
    ],
)
def test_bad_input_is_named(tiny, tmp_path, call, message):
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(InputError, match=message):
        call(tiny, tmp_path / "bad.pth")


@pytest.mark.parametrize("name", ["a", "b"])
def test_fingerprints_follow_the_weights(name):
    torch.manual_seed(ord(name))
    layer = nn.Linear(2, 2)
    before = features.fingerprint(layer)
    assert features.fingerprint(layer) == before
    with torch.no_grad():
        layer.bias.add_(1)
    assert features.fingerprint(layer) != before


def test_an_interrupted_training_of_the_classifier_resumes_to_the_same_weights(tmp_path, monkeypatch):
    splits = quick_splits()
    monkeypatch.setattr(classifiers, "_KEEP_SECONDS", 0.0)
    monkeypatch.setattr(classifiers, "_epochs_of", lambda train: 4)
    whole = in_domain_classifier(splits, cache=tmp_path / "whole", device="cpu", progress=False)
    original, steps = classifiers.functional.cross_entropy, []

    def interrupted(*args):
        steps.append(1)
        if len(steps) == 6:  # in the third epoch of two steps each
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(classifiers.functional, "cross_entropy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_domain_classifier(splits, cache=tmp_path / "cache", device="cpu", progress=False)
    resumed = in_domain_classifier(splits, cache=tmp_path / "cache", device="cpu", progress=False)
    assert len(steps) == 6 + 4  # the last two epochs only
    assert resumed.name == whole.name  # of the same weights to the last bit
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_a_damaged_state_of_a_training_is_not_resumed(tmp_path, monkeypatch):
    splits = quick_splits()
    monkeypatch.setattr(classifiers, "_KEEP_SECONDS", 0.0)
    monkeypatch.setattr(classifiers, "_epochs_of", lambda train: 2)
    whole = in_domain_classifier(splits, cache=tmp_path / "whole", device="cpu", progress=False)
    monkeypatch.setattr(classifiers, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for damage in (lambda content: content[:-1], lambda content: b""):
        with pytest.raises(KeyboardInterrupt):
            in_domain_classifier(splits, cache=tmp_path / "cache", device="cpu", progress=False)
        (path,) = (tmp_path / "cache").rglob("*.pt")
        path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setattr(classifiers, "keep", lambda *_: None)
    assert in_domain_classifier(splits, cache=tmp_path / "cache", device="cpu", progress=False).name == whole.name


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, digits):
    (tmp_path / "file").touch()
    monkeypatch.setattr(classifiers, "_epochs_of", lambda train: 1)
    with pytest.warns(UserWarning, match=r"nothing is kept in the cache .*PYRO_VAE_CACHE names another"):
        in_domain_classifier(quick_splits(), cache=tmp_path / "file", device="cpu", progress=False)
    with pytest.warns(UserWarning, match="nothing is kept in the cache"):
        assert len(extract_cached(Flat(), digits.test, cache=tmp_path / "file", device="cpu").pool) == 359


def test_a_long_name_of_a_data_set_makes_no_file_name_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "_epochs_of", lambda train: 1)
    images = Images(quick_splits().train.pixels, quick_splits().train.labels, "n" * 250)
    in_domain_classifier(Splits(images, images), cache=tmp_path, device="cpu", progress=False)
    assert len(list(tmp_path.iterdir())) == 1

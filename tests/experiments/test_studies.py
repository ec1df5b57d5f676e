"""Studies as files: Python, TOML, and what is wrong with them."""

import subprocess
import sys

import pytest

from pyro_vae._utils.checks import InputError
from pyro_vae.experiments import study
from pyro_vae.experiments.study import Claim, Entry, Picture, Study, named
from pyro_vae.spec import Spec


def test_a_python_file_with_a_list(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from pyro_vae import Spec\nSPECS = [Spec(latent_dim=d, beta=b) for d in (2, 3) for b in (1, 4)]\n")
    mine = named(str(path))
    assert mine.name == mine.title == "mine"
    assert [entry.name for entry in mine.entries] == [
        "latent_dim=2-beta=1.0",
        "latent_dim=2-beta=4.0",
        "latent_dim=3-beta=1.0",
        "latent_dim=3-beta=4.0",
    ]
    path.write_text("from pyro_vae import Spec\nTITLE = 'Two'\nSPECS = {'a': Spec(), 'b': Spec(beta=2)}\n")
    assert [(entry.name, entry.spec.beta) for entry in named(str(path)).entries] == [("a", 1.0), ("b", 2.0)]
    assert named(str(path)).title == "Two"
    path.write_text(
        "from pyro_vae import Spec\nfrom pyro_vae.experiments.study import Entry, Study\n"
        "STUDY = Study('own', 'Own', (Entry('a', Spec(), {'elbo_nats': -3}),))\n"
    )
    assert named(str(path)).entries[0].published == {"elbo_nats": -3}


def test_a_toml_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "How many?"\ndocument = "Me"\ncolumns = ["elbo_nats"]\n[common]\nhidden = [8]\n[models.two]\n'
        "latent_dim = 2\n[models.ten]\nlatent_dim = 10\npublished = {elbo_nats = -20.5}\n"
    )
    mine = named(str(path))
    assert (mine.name, mine.title, mine.document, mine.columns) == ("mine", "How many?", "Me", ("elbo_nats",))
    assert mine.entries[0] == Entry("two", Spec(latent_dim=2, hidden=(8,)))
    assert mine.entries[1].published == {"elbo_nats": -20.5}
    assert [picture.function for picture in mine.pictures] == ["training_curves", "reconstructions", "samples"]
    assert all(picture.runs == ("two", "ten") for picture in mine.pictures)


def test_a_python_file_imports_what_stands_beside_it(tmp_path):
    (tmp_path / "beside_a_study.py").write_text("DIMENSIONS = (2, 3)\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "from beside_a_study import DIMENSIONS\nfrom pyro_vae import Spec\n"
        "SPECS = [Spec(latent_dim=d) for d in DIMENSIONS]\n"
    )
    before = list(sys.path)
    assert [entry.spec.latent_dim for entry in named(str(path)).entries] == [2, 3]
    assert sys.path == before


def test_a_toml_file_of_an_editor_of_windows(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbftitle = 'x'\r\n[models.a]\r\n")
    assert named(str(path)).title == "x"


def test_autoencoders_and_other_images_have_figures_of_their_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from pyro_vae import Spec\n"
        "SPECS = {'a': Spec(model='autoencoder'), 'b': Spec(), 'c': Spec(model='autoencoder', dataset='mnist')}\n"
    )
    pictures = {picture.file: picture.runs for picture in named(str(path)).pictures}
    assert pictures == {
        "digits-training-curves.png": ("a", "b"),
        "digits-reconstructions.png": ("a", "b"),
        "digits-samples.png": ("b",),
        "mnist-training-curves.png": ("c",),
        "mnist-reconstructions.png": ("c",),
    }


def test_other_images_have_no_published_numbers():
    original = Study("a", "A", (Entry("b", Spec(dataset="mnist"), {"elbo_nats": -1.0}),))
    assert original.adapted(epochs=2).entries[0].spec.epochs == 2
    assert original.adapted(epochs=2).entries[0].published == {"elbo_nats": -1.0}
    assert original.adapted(dataset="digits").entries[0].published == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("fashoin-14", None, "study: given 'fashoin-14', .*did you mean 'fashion-14'"),
        ("none.py", None, "expected an existing .py or .toml file"),
        ("a.py", "SPECS = [1]", "a list or dictionary of Specs named SPECS"),
        ("a.py", "x = 1", "a list or dictionary of Specs named SPECS"),
        ("a.py", "SPECS = []", "a list or dictionary of Specs named SPECS"),
        ("a.py", "SPECS = {'a': 1}", "a Spec for the model a"),
        ("a.py", "1/0", "a Python file that runs .ZeroDivisionError"),
        ("a.py", "from pyro_vae import Spec\nSPECS = [Spec(beta=-1)]", "beta: given -1"),
        ("a.py", "from pyro_vae import Spec\nSPECS = [Spec(), Spec()]", "Specs of which no two are the same"),
        (
            "a.py",
            "from pyro_vae import Spec\nSPECS = {'../a': Spec()}",
            "model: given '../a', expected a name of letters",
        ),
        ("a.toml", "title = ", "a TOML file"),
        ("a.toml", "titel = 'x'", "did you mean 'title'"),
        ("a.toml", "title = 'x'", r"a table \[models.NAME\] for each model"),
        ("a.toml", "[models]", "at least one model"),
        ("a.toml", "[models]\na = 1", r"a table \[models.NAME\]"),
        ("a.toml", "common = 1\n[models.a]", r"a table \[models.NAME\]"),
        ("a.toml", "[models.a]\nlatent_dims = 2", "did you mean 'latent_dim'"),
        ("a.toml", "[models.a]\nlatent_dim = 0", "models.a: latent_dim: given 0"),
        (
            "a.toml",
            "[models.a]\n[models.b]\nhidden = 64",
            "models.b: hidden: given 64, expected a list of whole numbers",
        ),
        ("a.toml", "[models.a]\npublished = {elbo = -2.0}", "published of a: given 'elbo', .*did you mean 'elbo_nats'"),
        ("a.toml", "[models.a]\npublished = 1", "published of a: given 1"),
        ("a.toml", "[models.a]\npublished = {frechet = 'y'}", "published frechet: given 'y', expected a finite number"),
        ("a.toml", "[models.a]\npublished = {frechet = nan}", "published frechet: given nan, expected a finite number"),
        (
            "a.toml",
            f"[models.a]\npublished = {{frechet = 1{'0' * 400}}}",
            "published frechet: given 10.*, expected a finite number",
        ),
        ("a.toml", "document = 2024-01-01\n[models.a]", "document: given date, expected a string"),
        ("a.toml", f"[models.{'a' * 300}]", "model: given 'aaa.*, expected a name of at most 200 bytes"),
        ("a.py", "import sys\nsys.exit('usage')", "a Python file that runs .SystemExit: usage"),
        ("a.toml", "columns = 'x'\n[models.a]", "columns: given 'x', expected a list of names"),
    ],
)
def test_bad_files_are_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
        name = str(tmp_path / name)
    with pytest.raises(InputError, match=message):
        named(name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"entries": (Entry("a", Spec()), Entry("a", Spec()))}, "model: given 'a', expected a name that no other"),
        ({"pictures": (Picture("x.png", "samples", ("c",)),)}, "picture x.png: given 'c'"),
        ({"claims": (Claim("C", "elbo_nats", ("c",)),)}, "claim 'C': given 'c'"),
    ],
)
def test_bad_studies_are_named(more, message):
    with pytest.raises(InputError, match=message):
        Study(**({"name": "s", "title": "S", "entries": (Entry("a", Spec()),)} | more))


def test_a_claim_has_a_metric_for_each_of_its_models():
    with pytest.raises(InputError, match="metric: given .*expected one, or 3"):
        Claim("C", ("elbo_nats", "kl_per_sample"), ("a", "b", "c"))


def test_needs_no_torch():
    code = "import sys; from pyro_vae.experiments.study import *; list(map(named, NAMES)); exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("datasets", "names"),
    [
        (["digits", "mnist"], ["digits", "mnist"]),
        (["/a/x.npz", "/b/x.npz", "c/x/"], ["x", "x-2", "x-3"]),
        (["x-2", "/a/x", "/b/x"], ["x-2", "x", "x-3"]),
        (["/a/b c$d.png", "..", "/", "n" * 200], ["b_c_d.png", "images", "images-2", "n" * 60]),
    ],
)
def test_figures_are_named_after_data_sets_and_not_after_paths(datasets, names):
    file_names = study._file_names(datasets)
    assert list(file_names.values()) == names
    assert list(file_names) == datasets

"""The page of a study or a run: what it says, that it stands alone, and that it is usable in a browser."""

import base64
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.experiments.report.page import MAX_BYTES, report
from pyro_vae.metric_table import METRICS
from pyro_vae.spec import Spec

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "line", "br", "input"}
HISTORY = """epoch,beta,train_loss_nats,train_reconstruction_nats,train_kl_nats,validation_loss_nats,seconds
1,1.0,200.0,195.0,5.0,,2.0
2,1.0,150.0,143.0,7.0,,2.5
3,1.0,140.0,132.0,8.0,,2.5
"""


class Page(HTMLParser):
    """The elements of a page, each with its tag, attributes and text."""

    def __init__(self, path):
        super().__init__()
        self.source, self.elements, self.open = path.read_text(encoding="utf-8"), [], []
        self.feed(self.source)
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag and all(element.get(name) == value for name, value in attributes.items())
        ]

    def row(self, name):
        """The cells of a model in the table of results, by label of the column."""
        heads = [element["text"] for element in self.all("span", **{"class": "label"})]
        start = next(i for i, element in enumerate(self.elements) if element.get("data-value") == name)
        cells = [element["text"] for element in self.elements[start:] if element["tag"] in ("th", "td")]
        return dict(zip(heads, cells, strict=False))


def picture(side=20, seed=None):
    pixels = np.zeros((side, side, 3), np.uint8)
    if seed is not None:
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_run(folder, spec, **scores):
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(spec.to_json())
    (folder / "history.csv").write_text(HISTORY)
    (folder / "metrics.json").write_text(json.dumps(scores))
    (folder / "environment.json").write_text(json.dumps({"torch": "2.15.0", "device": "cpu"}))
    (folder / "weights.safetensors").write_bytes(b"")


def write_study(folder, models, **changes):
    """A study: for each model its spec, the scores of each seed, and further fields of its entry."""
    entries = []
    for name, spec, seeds, more in models:
        runs = []
        for seed, scores in enumerate(seeds):
            runs.append(f"runs/{name}/seed-{seed}")
            write_run(folder / runs[-1], replace(spec, seed=seed), **scores)
        entry = {"name": name, "spec": spec.to_dict(), "published": {}, "seeds": list(range(len(seeds))), "runs": runs}
        entries.append(entry | {"status": "done", "error": None} | more)
    study = {"format": 1, "name": "small", "title": "A small study", "command": "pyro-vae study small --out S"}
    study |= {"columns": ["reconstruction_nats", "kl_per_sample", "elbo_nats", "frechet"], "entries": entries}
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(study | changes))
    return folder


SMALL = Spec(dataset="mnist", image_shape=(1, 28, 28), latent_dim=2)
MODELS = [
    (
        "two",
        SMALL,
        [{"reconstruction_nats": 131.0, "kl_per_sample": 6.0, "elbo_nats": -137.0, "frechet": 30.0}],
        {"published": {"reconstruction_nats": 137.0, "kl_per_sample": 5.5, "frechet": 60.0}},
    ),
    (
        "ten",
        replace(SMALL, latent_dim=10),
        [{"reconstruction_nats": 80.0, "kl_per_sample": 20.0, "elbo_nats": -100.0, "frechet": 20.0}],
        {},
    ),
    ("other", replace(SMALL, likelihood="gaussian"), [{"reconstruction_nats": -400.0, "frechet": 25.0}], {}),
]


@pytest.fixture
def study(tmp_path):
    claims = [{"claim": "More is better", "verdict": "holds", "evidence": "see above"}]
    return Page(report(write_study(tmp_path / "study", MODELS, claims=claims)))


def test_what_a_study_says(study):
    (lang,) = study.all("html")
    assert lang["lang"] == "en"
    assert [element["text"] for element in study.all("h1")] == ["A small study"]
    assert study.row("two")["reconstruction (nats)"] == "131.00published 137.00difference −6.00"
    assert study.row("two")["KL (nats)"] == "6.00published 5.50difference +0.50"
    assert study.row("ten")["KL (nats)"] == "20.00"
    assert study.row("other")["KL (nats)"] == "–"
    commands = [element["text"] for element in study.all("pre")]
    assert "pyro-vae study small --out S" in commands
    assert "pyro-vae train --dataset=mnist --latent-dim=10 --out RUN" in commands
    assert json.loads(next(text for text in commands if text.startswith("{"))) == SMALL.to_dict()
    texts = [element["text"] for element in study.all("dd")]
    assert "2.15.0" in texts  # the environment is that of the first run, where the study has none
    assert "21.0 s" in texts
    heads = [element["text"] for element in study.all("th", scope="col")]
    assert {"latent_dim", "likelihood"} <= set(heads)
    assert "network" not in heads
    assert "network" in [element["text"] for element in study.all("dt")]


def test_best_values_are_marked_in_words_and_only_among_comparable_models(study):
    rows = {name: study.row(name) for name in ("two", "ten", "other")}
    marked = {(name, label) for name, row in rows.items() for label, text in row.items() if "★ best" in text}
    assert marked == {
        ("ten", "reconstruction (nats)"),
        ("ten", "ELBO (nats)"),
        ("ten", "Frechet distance"),
    }  # no KL; no Gaussian


def test_scores_by_another_network_are_not_subtracted(study):
    assert study.row("two")["Frechet distance"] == "30.00published 60.00"


def test_mean_and_deviation_over_seeds(tmp_path):
    seeds = [{"elbo_nats": value} for value in (-100.0, -101.0, -105.0)]
    folder = write_study(tmp_path / "study", [("one", SMALL, seeds, {"published": {"elbo_nats": -100.0}})])
    page = Page(report(folder))
    assert page.row("one")["ELBO (nats)"] == "−102.00 (sd 2.65)published −100.00difference −2.00"
    assert "over seeds" in page.all("caption")[0]["text"]
    assert "0, 1, 2" in [element["text"] for element in page.all("td")]


def test_results_csv_is_what_is_shown_where_there_is_one(tmp_path):
    folder = write_study(tmp_path / "study", MODELS, columns=["loss_nats"])
    (folder / "results.csv").write_text(
        "model,seeds,loss_nats,loss_nats_sd,loss_nats_published,loss_nats_difference\n"
        "two,3,138.25,0.5,143,-4.75\nten,3,nan,,,\n"
    )
    page = Page(report(folder))
    assert page.row("two")["loss (nats)"] == "138.25 (sd 0.50)published 143.00difference −4.75"
    assert page.row("ten")["loss (nats)"] == "–"
    assert "results.csv" in [element["text"] for element in page.all("code")]
    assert not [element for element in page.all("a") if not element["href"].startswith("#")]


def test_the_page_stands_alone(study):
    loaded = [
        element[name] for element in study.elements for name in ("src", "srcset", "data", "poster") if name in element
    ]
    assert loaded
    assert all(source.startswith("data:image/") for source in loaded)
    assert not study.all("link")
    assert "url(" not in study.source
    assert "@import" not in study.source
    (policy,) = study.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy["content"]
    assert len(study.source.encode()) < MAX_BYTES


def test_headings_tables_and_pictures_are_accessible(study):
    levels = [int(element["tag"][1]) for element in study.elements if re.fullmatch("h[1-6]", element["tag"])]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(study.all("caption")) == len(study.all("table")) == len(study.all("div", **{"class": "scroll"}))
    assert all("scope" in element for element in study.all("th"))
    assert all(element.get("alt", "").strip() for element in study.all("img"))
    targets = [element["href"].removeprefix("#") for element in study.all("a")]
    assert study.all("a")[0]["class"] == "skip"
    assert set(targets) <= {element["id"] for element in study.elements if "id" in element}
    regions = study.all("div", role="region")
    assert len(regions) == len(study.all("table"))
    assert all(element["tabindex"] == "0" and element["aria-label"] for element in regions)


def test_contrast_is_at_least_4_5(study):
    def luminance(colour):
        colour = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    themes = [
        dict(re.findall(r"--(\w+): #(\w+)", block)) for block in re.findall(r":root \{(.*?)\}", study.source, re.S)
    ]
    assert len(themes) == 3  # light, dark, printed
    for theme in themes:
        for ink in ("text", "muted", "link", "best", "bad"):
            for paper in ("page", "card"):
                light, dark = sorted((luminance(theme[ink]), luminance(theme[paper])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper, theme)


def test_everything_from_users_is_escaped(tmp_path):
    folder = write_study(
        tmp_path / "study",
        [("plain", SMALL, [{"elbo_nats": -1.0}], {"name": EVIL, "error": EVIL, "status": "failed"})],
        title=EVIL,
        document=EVIL,
        notes=[EVIL],
        command=f"pyro-vae study {EVIL}",
        columns=["elbo_nats", EVIL],
        figures=[
            {"file": 'figures/"><script>.png', "title": EVIL, "caption": EVIL, "alt": f'"{EVIL}'},
            {"file": f"figures/{EVIL}"},
        ],
        claims=[{"claim": EVIL, "verdict": EVIL, "evidence": EVIL}],
        environment={EVIL: EVIL},
    )
    study = json.loads((folder / "study.json").read_text())
    study["entries"][0]["spec"]["dataset"] = EVIL
    study["entries"][0]["published"] = {EVIL: 1.0}
    (folder / "study.json").write_text(json.dumps(study))
    (folder / "figures").mkdir()
    (folder / "figures" / '"><script>.png').write_bytes(picture())
    page = Page(report(folder))
    assert len(page.all("script")) == 1  # the page's own
    assert not [name for element in page.elements for name in element if name.startswith("on")]
    assert EVIL not in page.source
    texts = [
        element["text"]
        for tag in ("h1", "th", "td", "pre", "p", "dd", "dt", "summary", "figcaption")
        for element in page.all(tag)
    ]
    assert sum(EVIL in text for text in texts) >= 12


def test_figures_have_their_captions_and_alternatives(tmp_path):
    figures = [
        {"file": "figures/a.png", "title": "Samples", "caption": "Decoded draws.", "alt": "Rows of digits"},
        {"file": "figures/gone.png", "title": "Gone"},
        {"file": "figures/text.png", "title": "Text"},
        {"file": "figures/half.png", "title": "Half"},
    ]
    folder = write_study(tmp_path / "study", MODELS, figures=figures)
    (folder / "figures").mkdir()
    (folder / "figures" / "a.png").write_bytes(picture())
    (folder / "figures" / "text.png").write_text("no picture")
    (folder / "figures" / "half.png").write_bytes(picture(100, seed=0)[:5000])
    page = Page(report(folder))
    (image,) = page.all("img", alt="Rows of digits")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == picture()
    assert (image["width"], image["height"]) == ("20", "20")
    assert "Samples. Decoded draws." in [element["text"] for element in page.all("figcaption")]
    assert "Not there, or no picture: figures/gone.png, figures/text.png, figures/half.png" in [
        element["text"] for element in page.all("p")
    ]


def test_large_figures_are_shrunk(tmp_path):
    figures = [{"file": f"figures/{i}.png", "title": f"Noise {i}"} for i in range(2)]
    folder = write_study(tmp_path / "study", MODELS, figures=figures)
    (folder / "figures").mkdir()
    for i in range(2):
        (folder / "figures" / f"{i}.png").write_bytes(picture(1300, seed=i))  # 5 MB, which no PNG makes smaller
    path = report(folder)
    assert path.stat().st_size < MAX_BYTES
    for i in range(2):
        (image,) = Page(path).all("img", alt=f"Noise {i}")
        kind, _, content = image["src"].partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content))) as opened:
            assert f"data:image/{opened.format.lower()}" == kind
            assert opened.size == (int(image["width"]), int(image["height"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"entries": []},
        {"columns": []},
        {"figures": None, "claims": None, "notes": None, "environment": None, "seconds": None},
        {"command": ""},
    ],
)
def test_missing_parts_are_left_out(tmp_path, changes):
    page = Page(report(write_study(tmp_path / "study", MODELS, **changes)))
    assert page.all("h2", id="results")
    assert not page.all("h2", id="figures")


def test_what_failed_and_what_waits_is_said(tmp_path):
    models = [
        *MODELS,
        ("lost", SMALL, [], {"status": "failed", "error": "epoch 3: the loss is nan", "runs": ["runs/lost/seed-0"]}),
        ("later", SMALL, [], {"status": "pending"}),
    ]
    page = Page(report(write_study(tmp_path / "study", models)))
    assert page.row("lost")["model"] == "lost (failed)"
    assert "epoch 3: the loss is nan" in [element["text"] for element in page.all("pre")]
    assert "Not trained yet: later." in [element["text"] for element in page.all("p")]


def test_claims_with_their_numbers(tmp_path):
    claim = {"text": "More is more", "metric": "kl_per_sample", "rising": ["two", "ten"], "means": [6.0, 20.0]}
    claim |= {"sds": [0.5, None], "verdict": "not decided", "reason": "within noise", "seeds": 3, "seeds_holding": 2}
    page = Page(report(write_study(tmp_path / "study", MODELS, claims=[claim])))
    cells = [element["text"] for element in page.all("td")]
    evidence = "KL: two 6.00 (sd 0.50), ten 20.00; so in 2 of 3 seeds; within noise"
    assert {"More is more", "not decided", evidence} <= set(cells)


def test_the_binarization_of_training_and_of_evaluation_is_said(tmp_path):
    write_run(tmp_path / "run", SMALL, elbo_nats=-137.0)
    path = tmp_path / "run" / "metrics.json"
    source = {"elbo_nats": {"group": "bounds", "binarization": "static", "trained_with": "dynamic"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"provenance": source}))
    cells = [element["text"] for element in Page(report(tmp_path / "run")).all("td")]
    assert any("trained with dynamic binarization, evaluated on one fixed draw per image" in cell for cell in cells)


def test_claims_of_earlier_versions_without_errors_are_not_decided(tmp_path):
    claim = {"text": "More is more", "metric": "kl_per_sample", "rising": ["two", "ten"], "means": [6.0, 20.0]}
    claim |= {"sds": [None, None], "holds": True, "seeds": 1, "seeds_holding": 1}
    cells = [
        element["text"] for element in Page(report(write_study(tmp_path / "study", MODELS, claims=[claim]))).all("td")
    ]
    assert "not decided" in cells
    assert "holds" not in cells


def test_differences_between_models(tmp_path):
    elbo = {"metric": "elbo_nats", "first": "two", "second": "ten", "difference": 0.5, "se": 0.1, "beyond_noise": True}
    other = elbo | {"metric": "kl_per_sample", "difference": -0.01, "se": 0.02, "beyond_noise": False}
    page = Page(report(write_study(tmp_path / "study", MODELS, differences=[elbo, other])))
    cells = [cell["text"] for cell in page.all("td")]
    assert {"+0.50 ± 0.10", "\N{MINUS SIGN}0.01 ± 0.02 within noise"} <= set(cells)


def test_a_run(tmp_path):
    folder = tmp_path / "my run"
    write_run(
        folder,
        SMALL,
        elbo_nats=-137.0,
        elbo_se=0.25,
        frechet=30.0,
        real_scores={"frechet": 1.5},
        pareto_k={"ok": 0.75, "bad": 0.25},
        nll_warnings=["a <b> doubt"],
        extractor="classifier@1",
        provenance={"frechet": {"num_generated": 1000, "num_real": 359}},
    )
    (folder / "figures").mkdir()
    for name in ("samples", "curves", "mine"):
        (folder / "figures" / f"{name}.png").write_bytes(picture())
    for name in ("denoise/gaussian-0.3", "neighbours/neighbours", "traverse/thickness", "mine/other"):
        (folder / name).parent.mkdir()
        (folder / f"{name}.png").write_bytes(picture())
    source = {"run": "elsewhere", "noise": "gaussian:0.3", "log_score": True, "attribute": ["a b", "c"], "k": None}
    means = {"denoised_psnr_db": {"value": 17.123456, "se": 0.25}}
    stored = {"means": means, "provenance": source | {"weights": "1", "images": {}, "environment": {}}}
    (folder / "denoise" / "gaussian-0.3.json").write_text(json.dumps(stored))
    page = Page(report(folder, tmp_path / "new" / "page.html"))
    cells = [element["text"] for element in page.all("td")]
    assert {"denoise, gaussian-0.3", "denoised_psnr_db", "17.12 ± 0.25"} <= set(cells)
    assert {"−137.00 ± 0.25", "30.00", "1.50", "ok 75.0%, bad 25.0%"} <= set(cells)
    assert "a <b> doubt" in cells  # as text
    scored = "scored with classifier@1 (1,000 samples, 359 real images in their place)"
    assert any(scored in element["text"] for element in page.all("caption"))
    assert [element["text"] for element in page.all("figcaption")][3:] == [
        "mine. ",
        "Samples from the prior, decoded. ",
        "Denoise, gaussian-0.3. Noisy test images, the posterior means, their standard deviations, and the "
        "clean images.",
        "Neighbours. Test images beside their nearest training images by codes and by pixels.",
        "Traverse, thickness. Test images whose codes are moved along the direction, over what is measured of "
        "the decoded images.",
    ]
    commands = [element["text"] for element in page.all("pre")]
    assert "pyro-vae train --dataset=mnist --latent-dim=2 --out 'my run'" in commands
    used = "pyro-vae denoise 'my run' --noise=gaussian:0.3 --log-score '--attribute=a b' --attribute=c"
    assert used in commands
    assert not list(folder.glob("*.html"))


def test_a_run_that_is_not_finished(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "spec.json").write_text(SMALL.to_json())
    page = Page(report(folder))
    assert "pyro-vae train --resume --out run resumes it" in [element["text"] for element in page.all("pre")]
    assert not page.all("h2", id="training")


def test_the_training_command_trains_the_same_spec():
    from pyro_vae.experiments.report.page import _train_command

    spec = Spec(
        dataset="mnist",
        hidden=(8, 4),
        beta=0.5,
        network={"kind": "conv", "channels": (4,), "activation": "elu"},
        seed=3,
    )
    words = [word.removeprefix("--").split("=") for word in _train_command(spec.to_dict()).split() if "=" in word]
    assert Spec(**Spec.parse({name.replace("-", "_"): text for name, text in words})) == spec


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, None, "folder: given .*expected a study folder with a study.json, or a run folder with a spec.json"),
        ("study.json", "{", "study: given .*expected a JSON object"),
        ("study.json", "[]", "study: given .*expected a JSON object"),
        ("study.json", "{}", "study format: given None, expected 1"),
        ("study.json", '{"format": 2, "entries": []}', "study format: given 2, expected 1"),
        ("study.json", '{"format": 1}', "study: entries: given None, expected a list"),
        ("study.json", '{"format": 1, "entries": ["a"]}', "entry: given 'a', expected an object"),
        ("study.json", '{"format": 1, "entries": [{}]}', "entry: name: given None, expected a string"),
        ("study.json", '{"format": 1, "entries": [], "figures": [{}]}', "figure: file: given None"),
        (
            "study.json",
            '{"format": 1, "entries": [], "figures": [{"file": "../secret.png"}]}',
            "figure: given '../secret.png', expected a path inside the folder",
        ),
        (
            "study.json",
            '{"format": 1, "entries": [{"name": "a", "runs": ["/"]}]}',
            "run: given '/', expected a path inside the folder",
        ),
        ("spec.json", "no", "spec: given .*expected a JSON object"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, name, content, message):
    folder = tmp_path / "folder"
    if name is not None:
        folder.mkdir()
        (folder / name).write_text(content)
    assert main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("name", ["history.csv", "metrics.json"])
def test_a_damaged_file_of_a_run_is_named(tmp_path, name):
    write_run(tmp_path / "run", SMALL)
    (tmp_path / "run" / name).write_text('epoch,seconds\n1,"x')
    with pytest.raises(InputError, match=f"{name.split('.')[0]}: given .*{name}"):
        report(tmp_path / "run")


def test_the_command_tells_where_the_page_is(tmp_path, capsys):
    write_run(tmp_path / "run", SMALL)
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith(str(tmp_path / "run" / "report.html"))


def test_a_report_needs_no_torch(tmp_path):
    write_run(tmp_path / "run", SMALL)
    code = "import sys; from pyro_vae.cli.app import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
    arguments = [sys.executable, "-c", code, "report", str(tmp_path / "run")]
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, tmp_path):
    """The page of a study in a browser of a phone's width, and what the browser complained about."""
    write_study(tmp_path / "study", [*MODELS, ("a" * 60, SMALL, [], {"status": "failed", "error": "b" * 200})])
    page = browser.new_page(viewport={"width": 390, "height": 844})
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto(report(tmp_path / "study").as_uri())
    yield page, complaints
    page.close()


def test_in_a_browser_nothing_is_wider_than_a_phone(opened):
    page, complaints = opened
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert complaints == []


def test_in_a_browser_the_keyboard_sorts(opened):
    page, complaints = opened
    names = "[...document.querySelectorAll('.results tbody tr')].map(row => row.cells[0].dataset.value)"
    state = "[...document.querySelectorAll('.results thead th')].map(head => head.getAttribute('aria-sort'))"
    long = "a" * 60
    assert page.evaluate(names) == ["two", "ten", "other", long]
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText").startswith("reconstruction"):
            break
    page.keyboard.press("Enter")
    assert page.evaluate(names) == ["other", "ten", "two", long]  # a missing value stays last
    assert page.evaluate(state) == ["none", "ascending", "none", "none", "none"]
    page.keyboard.press("Space")
    assert page.evaluate(names) == ["two", "ten", "other", long]
    assert page.evaluate(state)[1] == "descending"
    page.locator(".results thead th").first.locator("button").click()
    assert page.evaluate(names) == [long, "other", "ten", "two"]
    assert complaints == []


def test_a_run_called_like_an_option_has_commands_that_work(tmp_path):
    folder = tmp_path / "-x"
    folder.mkdir()
    (folder / "spec.json").write_text("{}")
    text = report(folder).read_text(encoding="utf-8")
    assert "pyro-vae evaluate ./-x" in text
    assert "pyro-vae report ./-x" in text


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file systems there take names in Unicode only")
@pytest.mark.parametrize("write", [write_run, write_study])
def test_a_folder_whose_name_is_no_utf8_has_a_page(tmp_path, write):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder, SMALL if write is write_run else MODELS)
    assert "caf?" in Page(report(folder)).source


def test_what_stands_after_a_plus_minus_is_a_standard_error():
    """Of the table of `evaluate` and of the report, which say the same; deviations over seeds or splits are named."""
    for known in METRICS.values():
        assert known.error == "" or known.error.endswith(("_se", "_mcse"))
    with_error = {name for name, known in METRICS.items() if known.error}
    scores = {"frechet", "frechet_infinity", "kernel_distance", "inception_score_mean", "confidence"}
    assert scores | {"precision", "recall", "density", "coverage", "active_units"} <= with_error

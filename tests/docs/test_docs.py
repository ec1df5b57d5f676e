"""Every Python block of the documentation runs and prints what the page says; commands and equations exist."""

import dataclasses
import doctest
import itertools
import re
import shlex
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import pyro
import pytest
import torch
import typer

import pyro_vae
from pyro_vae import Spec
from pyro_vae.cli.app import app
from pyro_vae.cli.options import DOTTED
from pyro_vae.experiments import study

ROOT = Path(__file__).parents[2]
GENERATED = ("_build", "examples", "generated")
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if not set(page.relative_to(ROOT / "docs").parts) & {*GENERATED}
]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
WITH_CODE = [page for page in PAGES if any(kind == "python" for kind, _ in FENCE.findall(TEXTS[page]))]
LONG = ("theory", "corrections")  # pages that train until the numbers of their text come out
MEASUREMENTS = sorted(script for room in ("families", "uses") for script in (ROOT / "benchmarks" / room).glob("*.py"))
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NUMBER = re.compile(r"-?\d+\.\d+")


class Nearly(doctest.OutputChecker):
    """Numbers with a decimal point may differ by 5% and two units of the last digit: processors round differently."""

    def check_output(self, want: str, got: str, options: int) -> bool:
        wanted, printed = NUMBER.findall(want), NUMBER.findall(got)
        near = len(wanted) == len(printed) and all(
            abs(float(a) - float(b)) <= 0.05 * abs(float(a)) + 2.5 * 10 ** -len(a.split(".")[1])
            for a, b in zip(wanted, printed, strict=True)
        )
        if near:
            want, got = NUMBER.sub("#", want), NUMBER.sub("#", got)
        return super().check_output(want, got, options)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT / "docs").with_suffix(""))


@pytest.mark.filterwarnings("ignore")  # pages show what warns
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page.parent.name in LONG)) for page in WITH_CODE],
    ids=name,
)
def test_page_runs(page, tmp_path, monkeypatch, capsys):
    """The blocks of a page, in their order, as one program."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"__name__": "__main__"}
    for number, block in enumerate(block for kind, block in FENCE.findall(TEXTS[page]) if kind == "python"):
        if ">>>" not in block:
            exec(compile(block, f"{name(page)}, block {number}", "exec"), names)  # noqa: S102 (our own text)
            continue
        test = doctest.DocTestParser().get_doctest(block, names, f"{name(page)}, block {number}", str(page), 0)
        said = []
        failed, _ = doctest.DocTestRunner(Nearly(), optionflags=OPTIONS).run(test, out=said.append, clear_globs=False)
        assert not failed, "".join(said)
        names.update(test.globs)
    matplotlib.pyplot.close("all")


def _commands() -> list[tuple[str, list[str]]]:
    """The commands of console blocks and of those without a label."""
    examples = []
    for page, text in {**TEXTS, ROOT / "README.md": README}.items():
        blocks = [block for kind, block in FENCE.findall(text) if kind in ("", "console")]
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line[:2] != "  "]
        examples += [(page.name, words) for words in commands if words]
    return examples


COMMANDS = _commands()
OURS = [(page, words) for page, words in COMMANDS if "pyro-vae" in words or "pyro_vae" in words]
SCRIPTS = [(page, words) for page, words in COMMANDS if words[0] in ("python", "make")]


def test_commands_are_found():
    """In unlabelled blocks and behind a launcher, too."""
    commands = [" ".join(words) for page, words in COMMANDS if page == "README.md"]
    for command in (
        "make demo",
        "pyro-vae report RUN",
        "torchrun --nproc-per-node 4 -m pyro_vae train --dataset mnist",
    ):
        assert any(words.startswith(command) for words in commands), command


@pytest.mark.parametrize(
    ("page", "words"), OURS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_command_is_understood(page, words):
    """A command of a text is one that the command line parses: its names, options, choices and types."""
    start = words.index("pyro-vae" if "pyro-vae" in words else "pyro_vae") + 1
    rest = [word for word in words[start:] if word != "&"]
    command = typer.main.get_command(app)
    context = command.make_context("pyro-vae", [], resilient_parsing=True)
    while hasattr(command, "commands") and not rest[0].startswith("--"):
        assert rest[0] in command.commands, f"no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    rest = rest[: rest.index("2>")] if "2>" in rest else rest
    if rest not in (["--help"], ["..."]):
        parsed = command.make_context(words[start], rest, parent=context)
        values = parsed.params
        fields = {field.name for field in dataclasses.fields(Spec)}
        texts = {key: value for key, value in values.items() if key in fields and isinstance(value, str)}
        Spec(**Spec.parse(texts | parsed.meta.get(DOTTED, {})))


@pytest.mark.parametrize(
    ("page", "words"), SCRIPTS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_script_or_target_exists(page, words):
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return
    source = (ROOT / words[1]).read_text(encoding="utf-8")
    assert all(f'"{word}"' in source for word in words[2:] if word.startswith("--"))


def _studies() -> list[tuple[str, str]]:
    texts = {**TEXTS, ROOT / "README.md": README}
    return [(page.name, block) for page, text in texts.items() for kind, block in FENCE.findall(text) if kind == "toml"]


@pytest.mark.parametrize(("page", "text"), _studies(), ids=lambda value: value.split("\n")[0])
def test_study_file_is_one(page, text, tmp_path):
    """A TOML block is a study that the command line takes."""
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert study.named(str(tmp_path / "mine.toml")).entries


@pytest.mark.filterwarnings("ignore:grey pixels")
def test_readme_runs(capsys):
    """The Python blocks of the README, in their order, as one program."""
    torch.manual_seed(0)
    with pyro.get_param_store().scope():
        names = {"__name__": "__main__"}
        for number, block in enumerate(block for kind, block in FENCE.findall(README) if kind == "python"):
            exec(compile(block, f"README, block {number}", "exec"), names)  # noqa: S102 (our own text)
    assert "ELBO" in capsys.readouterr().out
    assert len(names["losses"]) == 8  # of as many seeds


@pytest.mark.parametrize("script", MEASUREMENTS, ids=lambda script: f"{script.parent.name}/{script.stem}")
def test_measurement_is_committed_and_shown(script):
    results = script.with_suffix(".json")
    path = results.relative_to(ROOT)
    shown = f"{{rows}} {path} ", f"{{crossed}} {path} ", f"{{family}} {script.stem}\n"
    assert results.is_file()
    assert any(text in page for text in shown for page in TEXTS.values())


def _equations() -> list[str]:
    return [
        number for text in TEXTS.values() for number in re.findall(r"^```\{equation\} (\d+\.\d+) ", text, re.MULTILINE)
    ]


def test_equations_are_numbered_through():
    """(1.1), (1.2), (2.1), ...: none twice, none left out."""
    numbers = sorted(tuple(int(part) for part in number.split(".")) for number in _equations())
    for (chapter, equation), (next_chapter, next_equation) in itertools.pairwise([(0, 0), *numbers]):
        assert (next_chapter, next_equation) in ((chapter, equation + 1), (chapter + 1, 1))


def _citations() -> list[tuple[str, str]]:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "pyro_vae").rglob("*.py"))}
    return [(stem, number) for stem, text in texts.items() for number in re.findall(r"\(eq\. ([^)]*)\)", text)]


@pytest.mark.parametrize(("module", "number"), sorted(set(_citations())))
def test_cited_equation_exists(module, number):
    assert number in _equations()


def test_there_are_pages_with_code_and_equations():
    assert WITH_CODE
    assert _equations()


def test_reference_has_all_public_names():
    documented = re.findall(r"auto(?:class|function):: pyro_vae\.(\w+)", TEXTS[ROOT / "docs" / "api" / "index.md"])
    assert set(documented) >= {name for name in pyro_vae.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem.startswith("add-")], ids=name)
def test_recipe_is_short(page):
    """What has to be added is complete in fewer than 30 lines of code."""
    recipe = next(block for kind, block in FENCE.findall(TEXTS[page]) if kind == "python")
    assert sum(bool(line.strip()) for line in recipe.splitlines()) < 30

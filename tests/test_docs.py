"""Every Python block of the documentation runs and prints what the page says; commands and equations exist."""

import doctest
import itertools
import re
import shlex
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import pytest
import torch
import typer

import pyro_vae
from pyro_vae import studies
from pyro_vae.cli import app

ROOT = Path(__file__).parents[1]
GENERATED = ("_build", "examples", "generated")
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if not set(page.relative_to(ROOT / "docs").parts) & {*GENERATED}
]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
WITH_CODE = [page for page in PAGES if any(kind == "python" for kind, _ in FENCE.findall(TEXTS[page]))]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NUMBER = re.compile(r"-?\d+\.\d+")


class Nearly(doctest.OutputChecker):
    """Numbers with a decimal point may differ by 5% and two units of the last digit: processors round differently."""

    def check_output(self, want: str, got: str, options: int) -> bool:
        wanted, given = NUMBER.findall(want), NUMBER.findall(got)
        near = len(wanted) == len(given) and all(
            abs(float(a) - float(b)) <= 0.05 * abs(float(a)) + 2.5 * 10 ** -len(a.split(".")[1])
            for a, b in zip(wanted, given, strict=True)
        )
        if near:
            want, got = NUMBER.sub("#", want), NUMBER.sub("#", got)
        return super().check_output(want, got, options)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT / "docs").with_suffix(""))


@pytest.mark.filterwarnings("ignore")  # pages show what warns
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
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
    found = []
    for page, text in {**TEXTS, ROOT / "README.md": (ROOT / "README.md").read_text(encoding="utf-8")}.items():
        for kind, block in FENCE.findall(text):
            if kind in ("console", "bash", "sh"):
                lines = block.replace("\\\n", " ").splitlines()
                found += [(page.name, shlex.split(line, comments=True)) for line in lines if "pyro-vae " in line]
    return found


@pytest.mark.parametrize(
    ("page", "words"), _commands(), ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_command_exists(page, words):
    """A command in the text has the options that the command line has."""
    words = words[words.index("pyro-vae") + 1 :]
    command = typer.main.get_command(app)
    context = command.make_context("pyro-vae", [], resilient_parsing=True)
    while hasattr(command, "commands") and not words[0].startswith("--"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command = command.commands[words[0]]
        words = words[1:]
    options = {option for parameter in command.get_params(context) for option in parameter.opts} | {"--help"}
    given = {word.split("=")[0] for word in words if word.startswith("--")}
    assert given <= options


def _studies() -> list[tuple[str, str]]:
    texts = {**TEXTS, ROOT / "README.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    return [(page.name, block) for page, text in texts.items() for kind, block in FENCE.findall(text) if kind == "toml"]


@pytest.mark.parametrize(("page", "text"), _studies(), ids=lambda value: value.split("\n")[0])
def test_study_file_is_one(page, text, tmp_path):
    """A TOML block is a study that the command line takes."""
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert studies.named(str(tmp_path / "mine.toml")).entries


def _equations() -> list[str]:
    return [
        number for text in TEXTS.values() for number in re.findall(r"^```\{equation\} (\d+\.\d+) ", text, re.MULTILINE)
    ]


def test_equations_are_numbered_through():
    """(1.1), (1.2), (2.1), ...: none twice, none left out."""
    numbers = sorted(tuple(int(part) for part in number.split(".")) for number in _equations())
    for (chapter, equation), (next_chapter, next_equation) in itertools.pairwise([(0, 0), *numbers]):
        assert (next_chapter, next_equation) in ((chapter, equation + 1), (chapter + 1, 1))


@pytest.mark.parametrize("path", sorted((ROOT / "pyro_vae").rglob("*.py")), ids=lambda path: path.stem)
def test_cited_equations_exist(path):
    cited = re.findall(r"\(eq\. (\d+\.\d+)\)", path.read_text(encoding="utf-8"))
    assert set(cited) <= set(_equations())


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

"""The solutions and other right answers earn all points; wrong answers lose them and are told why; nothing stops it."""

import ast
import functools
import sys
from pathlib import Path
from types import ModuleType

import coursework_answers
import coursework_model_answers
import pytest
import torch
from coursework_answers import SHORT

RIGHT = coursework_answers.RIGHT | coursework_model_answers.RIGHT
WRONG = coursework_answers.WRONG + coursework_model_answers.WRONG
FOLDER = Path(__file__).parents[1] / "coursework"
sys.path.insert(0, str(FOLDER))

import grade  # noqa: E402
from grading import collapse, worker  # noqa: E402
from grading.submission import Submission  # noqa: E402


class InThisProcess(Submission):
    """The same calls without a process, for answers that do no harm."""

    def __init__(self, source):
        super().__init__(Path("answer.py"))
        self._module = ModuleType("answer")
        self._module.__file__ = "answer.py"
        exec(compile(source, "answer.py", "exec"), vars(self._module))  # noqa: S102

    def _start(self):
        pass

    def _exchange(self, request, name, seconds):
        return worker.call(self._module, request)


def solution(number):
    return (FOLDER / "solutions" / f"exercise_{number}.py").read_text(encoding="utf-8")


def graded(number, source):
    verdicts = list(grade.verdicts(number, InThisProcess(source)))
    return sum(points for points, *_ in verdicts), "\n".join(verdict for *_, verdict in verdicts)


@pytest.fixture(scope="module")
def posterior_after():
    """Trains in a process of its own as the grader does, but once for the same arguments."""
    train = collapse.posterior_after
    trained = functools.cache(lambda arguments: train(ast.literal_eval(arguments)))
    return lambda arguments: trained(repr(arguments))


@pytest.fixture(autouse=True)
def _trained_once(monkeypatch, posterior_after):
    monkeypatch.setattr(collapse, "posterior_after", posterior_after)


@pytest.fixture(autouse=True)
def _own_noise():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("number", sorted(grade.CHECKS))
def test_right_answers_earn_all_points(number):
    earned, verdicts = graded(number, solution(number))
    assert earned == 10, verdicts
    earned, verdicts = graded(number, solution(number) + SHORT + RIGHT[number])
    assert earned == 10, verdicts


@pytest.mark.parametrize("number", sorted(grade.CHECKS))
def test_starter_earns_nothing(number):
    starter = (FOLDER / f"exercise_{number}.py").read_text(encoding="utf-8")
    assert graded(number, starter) == (0, "not done yet\nnot done yet\nnot done yet")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "source", "lost", "diagnosis"), WRONG)
def test_wrong_answers_lose_points_and_are_told_why(number, source, lost, diagnosis):
    earned, verdicts = graded(number, solution(number) + SHORT + source)
    assert 10 - earned == lost, verdicts
    assert diagnosis in verdicts


HARM = """
import math, os, sys, threading, torch
{module}
def closed_form(loc, scale):
    {first}
    return 0.5 * (loc**2 + scale**2 - 1 - (scale**2).log()).sum(-1)

def monte_carlo(loc, scale, draws):
    {second}

def draws_needed(loc, scale, error):
    {third}
    a, b = 0.5 * (scale**2 - 1), loc * scale
    return math.ceil((2 * a**2 + b**2).sum().item() / error**2)
"""


def handed_in(tmp_path, number, source, seconds=10.0):
    """Points and verdicts of a file that is graded in a process of its own, as `grade.py` does it."""
    path = tmp_path / f"exercise_{number}.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    with Submission(path, seconds) as answer:
        verdicts = list(grade.verdicts(number, answer))
    return [points for points, *_ in verdicts], [verdict for *_, verdict in verdicts]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statements", "points", "diagnoses"),
    [
        # What one function does takes nothing from the others.
        (
            ("", "while True: pass", "sys.exit(0)", "os._exit(0)"),
            [0, 0, 0],
            ["closed_form takes more than 10 seconds", "ends the program in line 9 (sys.exit)", "(exit code 0)"],
        ),
        (
            ("", "while len(str(print('x' * 10**6))) < 4 < sys.stdin.fileno(): pass", "raise NotImplementedError", ""),
            [4, 0, 3],
            ["passed", "not done yet", "passed"],
        ),
        (
            ("", "for _ in range(100): print('x' * 10**6)", "torch.zeros(2 * 10**9)", "raise KeyboardInterrupt"),
            [4, 0, 0],
            ["passed", "more than 4 GiB of memory in line 9", "KeyboardInterrupt in line"],
        ),
        (
            ("", "threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()", "os.kill(os.getpid(), 9)", ""),
            [4, 0, 3],
            ["passed", "(signal: Killed)", "passed"],
        ),
        # The right values are out of reach.
        (
            (
                "torch.allclose = torch.equal = torch.testing.assert_close = lambda *_, **__: True",
                "return loc",
                "pass",
                "",
            ),
            [0, 0, 3],
            ["shape", "returns None", "passed"],
        ),
        (
            (
                "",
                "return type('', (), {'__eq__': lambda *_: True})()",
                "os.write(4, b'1' * 9)",
                "",
            ),
            [0, 0, 3],
            ["was returned, expected tensors or numbers", "monte_carlo gives no reply", "passed"],
        ),
    ],
)
def test_nothing_in_a_file_stops_the_grader(tmp_path, statements, points, diagnoses):
    source = HARM.format(**dict(zip(("module", "first", "second", "third"), statements, strict=True)))
    earned, verdicts = handed_in(tmp_path, 1, source)
    assert earned == points, verdicts
    assert all(part in verdict for part, verdict in zip(diagnoses, verdicts, strict=True)), verdicts


@pytest.mark.parametrize(
    ("source", "diagnosis"),
    [
        ("def closed_form(loc, scale):\n    return (loc", "the file cannot be loaded: syntax error in line 2"),
        ("", "there is no function closed_form"),
        ("closed_form = 3", "there is no function closed_form"),
        (b"\xff\xfe\x00", "the file cannot be loaded"),
        ("import nonesuch", "ModuleNotFoundError in line 1"),
        ("import sys\nsys.exit()", "ends the program in line 2"),
        ("import os\nos._exit(3)", "the file, while it is loaded, ends the process it runs in (exit code 3)"),
        ("while True:\n    pass", "the file, while it is loaded, takes more than 3 seconds"),
        ("class Odd(Exception):\n    def __str__(self):\n        raise self\nraise Odd", "Odd in line 4"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told(tmp_path, source, diagnosis):
    earned, verdicts = handed_in(tmp_path, 1, source, seconds=1.0)
    assert earned == [0, 0, 0]
    assert diagnosis in verdicts[0]


def test_the_command_gives_the_table_and_exits_with_0(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grade, "HERE", tmp_path)
    (tmp_path / "exercise_1.py").write_text("def closed_form(loc, scale): return -")
    monkeypatch.setattr("sys.argv", ["grade.py", "1", "6"])
    assert not grade.main()
    printed = capsys.readouterr().out
    assert printed.count("syntax error in line 1") == 3
    assert printed.count("there is no file exercise_6.py") == 3
    assert printed.splitlines()[-1] == "0 of 20 points"
    monkeypatch.setattr("sys.argv", ["grade.py", "99"])
    with pytest.raises(SystemExit, match="2"):
        grade.main()
    assert f"exercise: given 99, expected 1 to {len(grade.CHECKS)}" in capsys.readouterr().err

"""The solutions earn all points, the starter files none, and a wrong answer does not pass."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "coursework"
sys.path.insert(0, str(FOLDER))

import grade  # noqa: E402

WRONG = {  # a tempting answer to the first question of each exercise
    1: "def closed_form(loc, scale): return 0.5 * (1 + (scale**2).log() - loc**2 - scale**2).sum(-1)",
    2: "def evidence(w, sigma, x): return -0.5 * (x / sigma).square().sum()",
    3: "def active_units(means): return means.shape[1]",
    4: "def log_weights(vae, x, k):\n q = vae.encode(x)\n z = q.sample((k,))\n return vae.decode(z).log_prob(x)",
    5: "def score_function(f, loc, scale, draws): return f(loc + scale)[:, None]",
    6: "def project(u, w): return u",
}


@pytest.mark.parametrize("number", sorted(grade.CHECKS))
def test_solution_earns_all(number, capsys):
    assert grade.grade(number, FOLDER / "solutions" / f"exercise_{number}.py") == 10, capsys.readouterr().out


@pytest.mark.parametrize("number", sorted(grade.CHECKS))
def test_starter_earns_nothing(number, capsys):
    assert grade.grade(number, FOLDER / f"exercise_{number}.py") == 0
    assert capsys.readouterr().out.count("not done yet") == 3


@pytest.mark.parametrize("number", sorted(grade.CHECKS))
def test_wrong_answer_is_told(number, tmp_path, capsys):
    answer = tmp_path / f"exercise_{number}.py"
    answer.write_text((FOLDER / f"exercise_{number}.py").read_text(encoding="utf-8") + "\n" + WRONG[number])
    assert grade.grade(number, answer) == 0
    assert "failed" in capsys.readouterr().out

"""Grades the exercises: `python coursework/grade.py 1` says which checks your exercise_1.py passes, and its points.

Without a number all are graded; `--solutions` grades the solutions instead. The checks are in `grading/`, a module
per exercise. Your file runs in a process of its own; what it prints is not shown.
"""

import argparse
import sys
from pathlib import Path

from grading import (
    bound,
    code_prior,
    collapse,
    fooled_score,
    gradients,
    kl,
    latent_use,
    mean_field,
    mixture,
    planar,
    rare_group,
    two_levels,
)
from grading.submission import AnswerError, NotDoneError, Submission

HERE = Path(__file__).parent
CHECKS = {
    1: kl.CHECKS,
    2: bound.CHECKS,
    3: collapse.CHECKS,
    4: mean_field.CHECKS,
    5: gradients.CHECKS,
    6: planar.CHECKS,
    7: latent_use.CHECKS,
    8: mixture.CHECKS,
    9: two_levels.CHECKS,
    10: code_prior.CHECKS,
    11: fooled_score.CHECKS,
    12: rare_group.CHECKS,
}


def verdicts(exercise, answer):
    """Points earned, points possible, what the check wants, and the verdict, for each check of an exercise."""
    for worth, check in CHECKS[exercise]:
        earned = 0
        try:
            check(answer)
            earned, verdict = worth, "passed"
        except NotDoneError:
            verdict = "not done yet"
        except AnswerError as reason:
            verdict = f"failed: {reason}"
        except Exception as error:  # a value that no check thought of
            verdict = f"failed: what was returned cannot be used ({type(error).__name__}: {str(error)[:200]})"
        yield earned, worth, check.__doc__, verdict


def grade(exercise, path):
    """Prints a line for each check of an exercise; the points that `path` earns."""
    total = 0
    with Submission(path) as answer:
        for earned, worth, wanted, verdict in verdicts(exercise, answer):
            total += earned
            print(f"  {earned}/{worth}  {wanted}\n        {verdict}", flush=True)
    print(f"exercise {exercise}: {total} of {sum(worth for worth, _ in CHECKS[exercise])} points\n")
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "exercise", nargs="*", type=int, help=f"1 to {len(CHECKS)}; all where none is given"
    )
    parser.add_argument("--solutions", action="store_true", help="grade the solutions")
    chosen = parser.parse_args()
    for number in chosen.exercise:
        if number not in CHECKS:
            parser.error(f"exercise: given {number}, expected 1 to {len(CHECKS)}")
    folder = HERE / "solutions" if chosen.solutions else HERE
    exercises = chosen.exercise or sorted(CHECKS)
    earned = sum(grade(number, folder / f"exercise_{number}.py") for number in exercises)
    print(f"{earned} of {sum(worth for number in exercises for worth, _ in CHECKS[number])} points")


if __name__ == "__main__":
    sys.exit(main())

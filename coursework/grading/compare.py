"""Comparing a student's value with the right one, and with those that known mistakes would give."""

import torch

from .submission import AnswerError


def numbers(value, name):
    """What a function returned as a float64 tensor."""
    if value is None:
        raise AnswerError(f"{name} returns None; is a `return` missing?")
    try:
        answer = torch.as_tensor(value)
        if answer.is_complex() or answer.dtype == torch.bool:
            raise TypeError
        return answer.double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AnswerError(f"{name} returns {str(value)[:60]!r}, expected numbers") from error


def tuple_of(value, length, name):
    """The parts of what a function returned, which must be `length` of them."""
    if not isinstance(value, (tuple, list)) or len(value) != length:
        returned = f"{len(value)} values" if isinstance(value, (tuple, list)) else type(value).__name__
        raise AnswerError(f"{name} returns {returned}, expected {length} values")
    return value


def shaped(value, shape, name):
    """Finite numbers of this shape; one number may come with or without a dimension of size 1."""
    answer = numbers(value, name)
    if tuple(shape) == () and answer.numel() == 1:
        answer = answer.reshape(())
    if answer.shape != tuple(shape):
        raise AnswerError(f"{name} has the shape {tuple(answer.shape)}, expected {tuple(shape)}")
    if not bool(answer.isfinite().all()):
        raise AnswerError(
            f"{name} has {int((~answer.isfinite()).sum())} of {answer.numel()} values that are NaN or infinite"
        )
    return answer


def same(value, expected, mistakes, name, tolerance=1e-4):
    """Raises AnswerError unless `value` is `expected` to `tolerance`, relative where it is above 1.

    `mistakes` are words for the student and the value, of any shape, to which that mistake leads.
    """
    answer = numbers(value, name)
    if answer.numel() == 1 and expected.dim() == 0:
        answer = answer.reshape(())
    if not near(answer, expected, tolerance):
        recognise(mistakes, lambda wrong: near(answer, wrong, tolerance))
        shaped(answer, expected.shape, name)
        differs = (answer - expected).abs().flatten()
        at = int(differs.argmax())
        where = f" at position {at}" if answer.numel() > 1 else ""
        raise AnswerError(f"{name} is {answer.flatten()[at]:.6g}{where}, expected {expected.flatten()[at]:.6g}")


def recognise(mistakes, matches):
    """Raises AnswerError with the words of the first mistake whose value `matches`."""
    for message, wrong in mistakes.items():
        if matches(wrong):
            raise AnswerError(message)


def near(answer, expected, tolerance):
    return answer.shape == expected.shape and bool(
        ((answer - expected).abs() <= tolerance * expected.abs().clamp(min=1)).all()
    )


def estimates(answer, expected, error, mistakes, name):
    """As `same`, for Monte Carlo estimates with the standard error `error`: 5 of these are allowed."""
    if not bool(((answer - expected).abs() <= 5 * error).all()):
        recognise(mistakes, lambda wrong: bool(((answer - wrong).abs() <= 5 * error).all()))
        at = int(((answer - expected).abs() / error).flatten().argmax())
        error = torch.as_tensor(error).expand(answer.shape).flatten()[at]
        raise AnswerError(
            f"{name} is {answer.flatten()[at]:.4g} on average, expected {expected.flatten()[at]:.4g} +- {error:.2g}"
        )

"""Comparing a student's value with the right one, and with those that known mistakes would give."""

import torch

from .submission import AnswerError


def numbers(value, name):
    """What a function returned as a float64 tensor."""
    if value is None:
        raise AnswerError(f"{name} returns None; is a `return` missing?")
    try:
        found = torch.as_tensor(value)
        if found.is_complex() or found.dtype == torch.bool:
            raise TypeError
        return found.double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise AnswerError(f"{name} returns {str(value)[:60]!r}, expected numbers") from error


def tuple_of(value, length, name):
    """The parts of what a function returned, which must be `length` of them."""
    if not isinstance(value, (tuple, list)) or len(value) != length:
        given = f"{len(value)} values" if isinstance(value, (tuple, list)) else type(value).__name__
        raise AnswerError(f"{name} returns {given}, expected {length} values")
    return value


def shaped(value, shape, name):
    """Finite numbers of this shape; one number may come with or without a dimension of size 1."""
    found = numbers(value, name)
    if tuple(shape) == () and found.numel() == 1:
        found = found.reshape(())
    if found.shape != tuple(shape):
        raise AnswerError(f"{name} has the shape {tuple(found.shape)}, expected {tuple(shape)}")
    if not bool(found.isfinite().all()):
        raise AnswerError(
            f"{name} has {int((~found.isfinite()).sum())} of {found.numel()} values that are NaN or infinite"
        )
    return found


def same(value, expected, mistakes, name, tolerance=1e-4):
    """Raises AnswerError unless `value` is `expected` to `tolerance`, relative where it is above 1.

    `mistakes` are words for the student and the value, of any shape, to which that mistake leads.
    """
    found = numbers(value, name)
    if found.numel() == 1 and expected.dim() == 0:
        found = found.reshape(())
    if not near(found, expected, tolerance):
        recognise(mistakes, lambda wrong: near(found, wrong, tolerance))
        shaped(found, expected.shape, name)
        differs = (found - expected).abs().flatten()
        at = int(differs.argmax())
        where = f" at position {at}" if found.numel() > 1 else ""
        raise AnswerError(f"{name} is {found.flatten()[at]:.6g}{where}, expected {expected.flatten()[at]:.6g}")


def recognise(mistakes, matches):
    """Raises AnswerError with the words of the first mistake whose value `matches`."""
    for words, wrong in mistakes.items():
        if matches(wrong):
            raise AnswerError(words)


def near(found, expected, tolerance):
    return found.shape == expected.shape and bool(
        ((found - expected).abs() <= tolerance * expected.abs().clamp(min=1)).all()
    )


def estimates(found, expected, error, mistakes, name):
    """As `same`, for Monte Carlo estimates with the standard error `error`: 5 of these are allowed."""
    if not bool(((found - expected).abs() <= 5 * error).all()):
        recognise(mistakes, lambda wrong: bool(((found - wrong).abs() <= 5 * error).all()))
        at = int(((found - expected).abs() / error).flatten().argmax())
        error = torch.as_tensor(error).expand(found.shape).flatten()[at]
        raise AnswerError(
            f"{name} is {found.flatten()[at]:.4g} on average, expected {expected.flatten()[at]:.4g} +- {error:.2g}"
        )

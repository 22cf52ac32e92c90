"""A line search for the strong Wolfe conditions, with the decisions of torch's `LBFGS`."""

from collections.abc import Callable
from math import isnan, nan, sqrt
from typing import Any, NamedTuple

DECREASE = 1e-4  # of the first condition: the loss goes down by this part of what its slope promises
CURVATURE = 0.9  # of the second: the slope is at most this part of the first one
NARROW = 1e-9  # an interval not worth halving


class Point(NamedTuple):
    """A point on the line: how far along, with loss, gradient, and slope along the line."""

    t: float
    loss: float
    gradient: Any
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], Point], start: Point, t: float, largest: float, most: int
) -> tuple[Point, int]:
    """A point that fulfils the strong Wolfe conditions, or the best one found.

    Args:
        evaluate: gives the point at t.
        start: the point at 0.
        t: the first trial.
        largest: the largest element of the direction.
        most: how many trials after the first.

    Returns:
        The point, and how often `evaluate` was called.

    Source: Nocedal and Wright, "Numerical optimization", 2006, algorithms 3.5 and 3.6.
    """
    low, high, done, used = _bracket(evaluate, start, t, most)
    if done:
        return low, used
    ends = [low, high]  # in the order they were found: a cubic's rounding depends on it
    stuck = False
    best = 0 if ends[0].loss <= ends[1].loss else 1
    while used - 1 < most:
        a, b = ends
        if abs(b.t - a.t) * largest < NARROW:
            break
        t, stuck = _trial(a, b, stuck)
        new = evaluate(t)
        used += 1
        if not _decreased(new, start) or new.loss >= ends[best].loss:
            ends[1 - best] = new
            best = 0 if ends[0].loss <= ends[1].loss else 1
            continue
        fulfilled = abs(new.slope) <= -CURVATURE * start.slope
        if not fulfilled and new.slope * (ends[1 - best].t - ends[best].t) >= 0:
            ends[1 - best] = ends[best]
        ends[best] = new
        if fulfilled:
            break
    return ends[best], used


def _decreased(point: Point, start: Point) -> bool:
    return not point.loss > start.loss + DECREASE * point.t * start.slope


def _bracket(evaluate: Callable[[float], Point], start: Point, t: float, most: int) -> tuple[Point, Point, bool, int]:
    """Two points with one between them that fulfils the conditions; or (with True) one that does."""
    before, new = start, evaluate(t)
    for i in range(most):
        if not _decreased(new, start) or (i > 1 and new.loss >= before.loss):
            return before, new, False, i + 1
        if abs(new.slope) <= -CURVATURE * start.slope:
            return new, new, True, i + 1
        if new.slope >= 0:
            return before, new, False, i + 1
        bounds = new.t + 0.01 * (new.t - before.t), new.t * 10
        before, new = new, evaluate(_minimum(before, new, bounds))
    return start, new, False, most + 1


def _trial(a: Point, b: Point, stuck: bool) -> tuple[float, bool]:
    """Where to try next in an interval, and whether that is so near to an end that the next one must not be."""
    left, right = min(a.t, b.t), max(a.t, b.t)
    t = _minimum(a, b, (left, right))
    margin = 0.1 * (right - left)
    if min(right - t, t - left) >= margin:
        return t, False
    if not stuck and left < t < right:
        return t, True
    return (right - margin if abs(t - right) < abs(t - left) else left + margin), False


def _minimum(a: Point, b: Point, bounds: tuple[float, float]) -> float:
    """The minimum of the cubic through two points with their slopes, within bounds; the bounds' middle if none."""
    if a.t > b.t:
        a, b = b, a
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return sum(bounds) / 2
    d2 = sqrt(square)
    below = b.slope - a.slope + 2 * d2
    t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / below) if below else nan
    return sum(bounds) / 2 if isnan(t) else min(max(t, bounds[0]), bounds[1])

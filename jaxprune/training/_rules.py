"""What to drop and what to grow: rules are values made of parts, and so are averaged metrics."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxprune._errors import PruningError
from jaxprune._metrics import L1, Metric, Random, importance, scores_of
from jaxprune._text import shown
from jaxprune._tree import Leaf

Growth: TypeAlias = Callable[[Sequence[Leaf], Sequence[jax.Array], Any], Sequence[jax.Array]]


class Rule(NamedTuple):
    """How a mask follows from the one before it.

    Without `grow` it only ever loses weights: the lowest of the metric go, until the sparsity of
    the schedule is met. With `grow`, a part of the kept weights goes besides, and of all that are
    gone then the highest come back.

    Attributes:
        drop: The part of the kept weights that is exchanged, of the progress of the schedule, 0 to
            1; None exchanges none.
        grow: Scores of what to grow, of the weights in scope, their gradients and a PRNG key.
        allocation: How a sparsity given as a plain number is shared out, as `allocate` names it;
            None gives each leaf the same.
        decay: How much of the gradients before remains in the average that `grow` is given; with 0
            it is given the last ones.
    """

    drop: Callable[[jax.Array], Any] | None = None
    grow: Growth | None = None
    allocation: str | None = None
    decay: float = 0.0


def rigl(drop: float = 0.3, *, decay: float = 0.0) -> Rule:
    """Exchanges the lowest weights for those of the largest gradients.

    Evci et al., "Rigging the Lottery", 2020: the part exchanged falls along a cosine from `drop` to
    0 at the end of the schedule, and a plain sparsity is shared out by ERK.

    Args:
        drop: The part of the kept weights exchanged at first.
        decay: How much of the gradients before remains at each update in those that weights are
            grown by: with 0 the last batch alone decides, with 0.99 about a hundred do, at the cost
            of one more number a weight in the state.

    Returns:
        The rule; `constant` is the schedule it was made for.

    Raises:
        PruningError: `drop` lies outside (0, 1], or `decay` outside [0, 1).
    """
    _check_drop(drop)
    if not isinstance(decay, numbers.Real) or not 0 <= decay < 1:
        raise PruningError(f"decay is a part of the gradients in [0, 1), got {shown(decay)}.")

    def falling(progress: jax.Array) -> jax.Array:
        return drop / 2 * (1 + jnp.cos(jnp.pi * progress))

    return Rule(falling, by_gradient, "erk", float(decay))


def sparse_evolution(drop: float = 0.3) -> Rule:
    """Exchanges the lowest weights for others at random; `sparsify` needs a `key`.

    SET: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science", 2018. A plain sparsity is shared out by ERK.

    Args:
        drop: The part of the kept weights exchanged each time.

    Returns:
        The rule; `constant` is the schedule it was made for.
    """
    _check_drop(drop)
    return Rule(lambda progress: drop, at_random, "erk")


def acdc() -> Rule:
    """Follows the phases of `periodic`: all weights grow in the dense ones.

    Returns:
        The rule.
    """
    return Rule(grow=by_gradient)


def by_gradient(
    weights: Sequence[Leaf], grads: Sequence[jax.Array], key: Any
) -> Sequence[jax.Array]:
    """Grows where the loss falls fastest.

    Args:
        weights: The weights in scope.
        grads: Their gradients.
        key: Unused.

    Returns:
        The magnitude of each gradient.
    """
    del weights, key
    scores: Sequence[jax.Array] = importance(list(grads), L1())
    return scores


def at_random(weights: Sequence[Leaf], grads: Sequence[jax.Array], key: Any) -> Sequence[jax.Array]:
    """Grows anywhere.

    Args:
        weights: The weights in scope.
        grads: Unused.
        key: A PRNG key.

    Returns:
        Uniform scores.
    """
    del grads
    if key is None:
        raise PruningError("this rule grows weights at random: give sparsify a key=.")
    return scores_of(Random(key), weights)


class Averaged(NamedTuple):
    """A metric of gradients for training: the exponential average of its scores.

    Attributes:
        of: Makes a metric of gradients, as `Taylor` does.
        decay: How much of the average remains at each update; 0 takes the last scores alone.
    """

    of: Callable[[Any], Metric]
    decay: float


def averaged(of: Callable[[Any], Metric], decay: float = 0.9) -> Averaged:
    """A metric for `sparsify` that averages `Taylor`, `Fisher`, `Movement` over the updates.

    Scores that are not finite leave the average as it is.

    Args:
        of: Makes a metric of an array of gradients: the class `jp.Taylor`, or a function such as
            `lambda grads: lambda weights: jnp.abs(grads)`.
        decay: How much of the average remains at each update, in [0, 1).

    Returns:
        The metric.

    Raises:
        PruningError: `of` cannot be called, or `decay` does not lie in [0, 1).
    """
    if not callable(of) or not isinstance(decay, numbers.Real) or not 0 <= decay < 1:
        raise PruningError(
            f"expected what makes a metric of gradients, and 0 <= decay < 1, got {shown(of)}, "
            f"{shown(decay)}: write jp.averaged(jp.Taylor, 0.9)."
        )
    return Averaged(of, float(decay))


def _check_drop(drop: float) -> None:
    if not isinstance(drop, numbers.Real) or not 0 < drop <= 1:
        raise PruningError(f"drop is a part of the kept weights in (0, 1], got {shown(drop)}.")

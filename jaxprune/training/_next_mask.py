"""The next masks: from those before them, by a schedule, a rule and a metric."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._assign import Assignment
from jaxprune._kernels.parts import any_where, unknown
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.sharding import placed
from jaxprune._metrics import Metric, ranked_by
from jaxprune._origins import ranked
from jaxprune._specs.protocol import at_sparsity, target
from jaxprune._tree import Leaf, as_array
from jaxprune.training._rules import Averaged, Rule
from jaxprune.training._schedules import Schedule


class How(NamedTuple):
    """How masks are chosen, as the user asked for it."""

    schedule: Schedule
    rule: Rule
    metric: Metric | Averaged


class Before(NamedTuple):
    """What a new mask follows from besides the weights.

    Attributes:
        kept: The masks so far, leaf by leaf; None where a leaf is left dense.
        grads: The gradients that weights are grown by, leaf by leaf.
        averages: What an averaged metric has gathered, leaf by leaf.
        key: A PRNG key, or None.
    """

    kept: Sequence[Any]
    grads: Sequence[Any]
    averages: Sequence[Any]
    key: Any


def next_masks(
    assignment: Assignment, before: Before, how: How, count: Any, due: Any
) -> tuple[list[Any], list[Any]]:
    """The masks after `count` updates, leaf by leaf, and those of the weights kept until then too.

    Weights that are already pruned rank below every score, -inf included, and weights that must
    stay above every score, NaN included.

    Args:
        assignment: What is pruned by which spec.
        before: What the masks follow from.
        how: How masks are chosen.
        count: The updates made.
        due: Whether masks are chosen now; else they stay as they were.
    """
    schedule, rule, metric = how
    scope = assignment.members
    weights = [Leaf(leaf.path, as_array(leaf.value)) for leaf in assignment.chosen]
    if isinstance(metric, Averaged):
        scored = [Ranked(before.averages[i]) for i in scope]
    else:
        scored = ranked_by(metric, weights)
    alive = [
        dataclasses.replace(leaf, alive=before.kept[i])
        for i, leaf in zip(scope, scored, strict=True)
    ]

    # NaN ranks highest, so one would displace a valid score: then all masks stay as they were.
    due = due & ~any_where(alive, _is_nan)

    def masks_at_schedule(leaves: Sequence[Ranked], exchanged: Any = None) -> dict[int, Any]:
        """The masks at the schedule's sparsity, of which `exchanged` is free to grow elsewhere."""

        def sparsity(end: Any) -> Any:
            wanted = schedule.sparsity(count, end)
            wanted = wanted if exchanged is None else wanted + exchanged * (1 - wanted)
            return jnp.where(due, wanted, 0)  # a search for nothing ends at once

        known: dict[float, Any] = {}
        specs = {}
        for i, spec in assignment.specs.items():
            end = target(spec)
            if not isinstance(end, float | int):
                now = sparsity(end)
            elif (now := known.get(end)) is None:
                now = known[end] = sparsity(end)
            specs[i] = at_sparsity(spec, now)
        masks = assignment.masks(leaves, specs)
        return {i: masks[i] for i in scope}

    if rule.grow is None:
        masks = masks_at_schedule(alive)
    else:
        growth = rule.grow(weights, [before.grads[i] for i in scope], before.key)
        grown = [
            ranked(placed(scores, leaf.value)) for scores, leaf in zip(growth, weights, strict=True)
        ]
        exchanged = None
        if rule.drop is not None:
            # Where a gradient is not finite nothing is exchanged.
            finite = ~any_where(grown, _is_not_finite)
            progress = jnp.clip(count / max(schedule.last, 1), 0, 1)
            exchanged = jnp.where(finite, rule.drop(progress), 0)
        stay = masks_at_schedule(alive, exchanged)
        masks = masks_at_schedule(
            [dataclasses.replace(leaf, held=stay[i]) for i, leaf in zip(scope, grown, strict=True)]
        )
    chosen = unknown(due)
    moving = [
        old if old is None else jnp.where(chosen, masks[i] & old, old)
        for i, old in enumerate(before.kept)
    ]
    if rule.grow is None:
        return moving, moving
    # Of these masks, and not of those before: so that they may be written where those lie.
    kept = [
        stay if stay is None else jnp.where(chosen, masks[i], stay) for i, stay in enumerate(moving)
    ]
    return kept, moving


def _is_nan(leaf: Ranked) -> jax.Array:
    return jnp.isnan(leaf.scores()) & leaf.alive


def _is_not_finite(leaf: Ranked) -> jax.Array:
    return ~jnp.isfinite(leaf.scores())


def blended(before: Sequence[Any], now: Sequence[Any], decay: float) -> list[Any]:
    """Exponential averages after one more value of each; None where there are none.

    A value that is not finite leaves its average as it is.
    """

    def blend(old: Any, new: Any) -> Any:
        if old is None:
            return None
        mean = (decay * old + (1 - decay) * new).astype(old.dtype)
        return jnp.where(jnp.isfinite(new), mean, old)

    return [blend(*pair) for pair in zip(before, now, strict=True)]

"""The next masks: from those before them, by a schedule, a rule and a metric."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxprune._assign import Assignment
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.sharding import placed
from jaxprune._metrics import Metric, ranked_by
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


def next_masks(assignment: Assignment, before: Before, how: How, count: Any) -> list[Any]:
    """The masks after `count` updates, leaf by leaf.

    Weights that are already pruned rank below every score, -inf included, and weights that must
    stay above every score, NaN included.
    """
    schedule, rule, metric = how
    scope = assignment.members
    weights = [Leaf(leaf.path, as_array(leaf.value)) for leaf in assignment.chosen]
    if isinstance(metric, Averaged):
        ranked = [Ranked(before.averages[i]) for i in scope]
    else:
        ranked = ranked_by(metric, weights)
    alive = [
        dataclasses.replace(leaf, gone=~before.kept[i])
        for i, leaf in zip(scope, ranked, strict=True)
    ]

    def masks_at_schedule(leaves: Sequence[Ranked], exchanged: Any = None) -> dict[int, Any]:
        """The masks at the schedule's sparsity, of which `exchanged` is free to grow elsewhere."""

        def sparsity(spec: Any) -> Any:
            wanted = schedule.sparsity(count, target(spec))
            return wanted if exchanged is None else wanted + exchanged * (1 - wanted)

        specs = {i: at_sparsity(spec, sparsity(spec)) for i, spec in assignment.specs.items()}
        masks = assignment.masks(leaves, specs)
        return {i: masks[i] for i in scope}

    # NaN ranks highest, so one would displace a valid score: then all masks stay as they were.
    has_nan = [jnp.any(jnp.isnan(leaf.scores()) & ~leaf.gone) for leaf in alive]
    if rule.grow is None:
        new = {i: mask & before.kept[i] for i, mask in masks_at_schedule(alive).items()}
    else:
        progress = jnp.clip(count / max(schedule.last, 1), 0, 1)
        stay = masks_at_schedule(alive, None if rule.drop is None else rule.drop(progress))
        growth = rule.grow(weights, [before.grads[i] for i in scope], before.key)
        finite = jnp.stack([jnp.all(jnp.isfinite(g)) for g in growth]).all()
        grown = []
        for i, leaf, scores in zip(scope, alive, growth, strict=True):
            # Where a gradient is not finite nothing grows: the weights dropped just now come back.
            old = leaf.scores()
            kind = jnp.promote_types(old.dtype, scores.dtype)
            values = jnp.where(finite, placed(scores, old).astype(kind), old.astype(kind))
            gone = ~finite & leaf.gone
            grown.append(Ranked(values, gone=gone, held=stay[i]))
        new = masks_at_schedule(grown)
    is_valid = ~jnp.stack(has_nan).any()
    return [
        jnp.where(is_valid, new[i], kept) if i in new else None
        for i, kept in enumerate(before.kept)
    ]


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

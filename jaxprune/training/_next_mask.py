"""The mask that follows from the one before it: what a schedule, a rule and a metric make of it."""

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
    """What a new mask follows from besides the weights, leaf by leaf."""

    kept: Sequence[Any]
    grads: Sequence[Any]
    averages: Sequence[Any]
    key: Any


def next_masks(assignment: Assignment, before: Before, how: How, count: Any) -> list[Any]:
    """The masks after `count` updates, leaf by leaf.

    What is gone ranks below every score, and what is held above: -inf and NaN are scores like
    others.
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

    def best(leaves: Sequence[Ranked], exchanged: Any = None) -> dict[int, Any]:
        """The masks at the schedule's sparsity; of what is kept a part may be exchanged."""

        def sparsity(spec: Any) -> Any:
            wanted = schedule.sparsity(count, target(spec))
            return wanted if exchanged is None else wanted + exchanged * (1 - wanted)

        specs = {i: at_sparsity(spec, sparsity(spec)) for i, spec in assignment.specs.items()}
        masks = assignment.masks(leaves, specs)
        return {i: masks[i] for i in scope}

    # A score that is no number says nothing, and would take the place of one that is.
    broken = [jnp.any(jnp.isnan(leaf.scores()) & ~leaf.gone) for leaf in alive]
    if rule.grow is None:
        new = {i: mask & before.kept[i] for i, mask in best(alive).items()}
    else:
        progress = jnp.clip(count / max(schedule.last, 1), 0, 1)
        stay = best(alive, None if rule.drop is None else rule.drop(progress))
        growth = rule.grow(weights, [before.grads[i] for i in scope], before.key)
        sound = jnp.stack([jnp.all(jnp.isfinite(g)) for g in growth]).all()
        grown = []
        for i, leaf, scores in zip(scope, alive, growth, strict=True):
            # Gradients that are no numbers grow nothing: what was dropped comes back instead.
            old = leaf.scores()
            kind = jnp.promote_types(old.dtype, scores.dtype)
            values = jnp.where(sound, placed(scores, old).astype(kind), old.astype(kind))
            gone = ~sound & leaf.gone
            grown.append(Ranked(values, gone=gone, held=stay[i]))
        new = best(grown)
    is_sound = ~jnp.stack(broken).any()
    return [
        jnp.where(is_sound, new[i], kept) if i in new else None
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

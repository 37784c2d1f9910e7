"""The mask that follows from the one before it: what a schedule, a rule and a metric make of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune._masks import masks_by, without
from jaxprune._metrics import Metric, scores_of
from jaxprune._plan import Decision
from jaxprune._sharding import placed
from jaxprune._specs import at_sparsity
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


def chosen(
    found: list[Leaf], decisions: list[Decision], before: Before, how: How, count: Any
) -> list[Any]:
    """The masks after `count` updates, leaf by leaf."""
    schedule, rule, metric = how
    scope = scope_of(decisions)
    weights = [Leaf(found[i].path, as_array(found[i].value)) for i in scope]
    if isinstance(metric, Averaged):
        scores = [before.averages[i] for i in scope]
    else:
        scores = scores_of(metric, weights)

    def best(scores: Sequence[jax.Array], sparsity: Callable[[Any], Any]) -> dict[int, Any]:
        at = [d._replace(spec=at_sparsity(d.spec, sparsity)) for d in decisions]
        placed = list(found)
        for i, score in zip(scope, scores, strict=True):
            placed[i] = Leaf(found[i].path, score)
        masks = masks_by(at, placed)
        return {i: masks[i] for i in scope}

    def wanted(target: Any) -> Any:
        return schedule.sparsity(count, target)

    specs = {i: decision.spec for decision in decisions for i in decision.members}
    alive = [without(specs[i], s, before.kept[i]) for i, s in zip(scope, scores, strict=True)]
    # A score that is no number says nothing, and would take the place of one that is.
    sound = ~jnp.stack([jnp.any(jnp.isnan(s)) for s in alive]).any()
    if rule.grow is None:
        new = {i: m & before.kept[i] for i, m in best(alive, wanted).items()}
    else:
        exchanged = 0.0
        if rule.drop is not None:
            exchanged = rule.drop(jnp.clip(count / max(schedule.last, 1), 0, 1))
        stay = best(alive, lambda target: wanted(target) + exchanged * (1 - wanted(target)))
        growth = rule.grow(weights, [before.grads[i] for i in scope], before.key)
        told = jnp.stack([jnp.all(jnp.isfinite(g)) for g in growth]).all()
        # Gradients that are no numbers grow nothing: what was dropped for it comes back instead.
        growth = [
            jnp.where(told, placed(g, s), s.astype(g.dtype))
            for g, s in zip(growth, alive, strict=True)
        ]
        held = [jnp.where(stay[i], jnp.inf, g) for i, g in zip(scope, growth, strict=True)]
        new = best(held, wanted)
    return [jnp.where(sound, new[i], m) if i in new else None for i, m in enumerate(before.kept)]


def scope_of(decisions: Sequence[Decision]) -> list[int]:
    """The leaves that are pruned."""
    return sorted(i for decision in decisions for i in decision.members)


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

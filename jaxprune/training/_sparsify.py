"""The transformation of an optimizer that keeps a model sparse."""

import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune._allocation.allocate import allocate
from jaxprune._assign import Assignment, assign
from jaxprune._errors import InvalidSparsity, Problem, PruningError, raise_problems
from jaxprune._metrics import L1, Metric, one_key, scores_of
from jaxprune._packing import pack, unpack
from jaxprune._specs.protocol import target
from jaxprune._text import shown
from jaxprune._tree import Leaf, as_array, is_traced, leaves, rebuild
from jaxprune._where import Where, is_weight
from jaxprune.tracing._uses import Uses
from jaxprune.training._keep_mask import check_params
from jaxprune.training._masks import (
    arrays_like,
    first_masks,
    kept_only,
    state_masks,
    stray_count,
    values_like,
    zeroing,
)
from jaxprune.training._memory import renewed
from jaxprune.training._next_mask import Before, How, blended, next_masks
from jaxprune.training._rules import Averaged, Rule
from jaxprune.training._schedules import Schedule
from jaxprune.training._state import SparsifyState, mask_states

if TYPE_CHECKING:
    import optax


class _Masks(NamedTuple):
    """What only some updates change, the others pass on.

    Attributes:
        kept: The masks, leaf by leaf.
        stored: The packed tree of them, if the state holds that; else None.
        strays: As in `SparsifyState`.
        moving: Those of the weights that the optimizer moves: all that are kept, but for those that
            have just grown. None if none grow, and before it is known.
    """

    kept: list[Any]
    stored: Any
    strays: Any
    moving: list[Any] | None


def sparsify(
    inner: "optax.GradientTransformation",
    spec: Any,
    *,
    schedule: Schedule,
    metric: Metric | Averaged = L1(),
    rule: Rule = Rule(),
    where: Where = is_weight,
    uses: Uses | None = None,
    packed: bool = False,
    key: Any = None,
    mask: Any = None,
    steps: int | None = None,
) -> "optax.GradientTransformationExtraArgs":
    """Makes an optimizer train a sparse model: nothing else in the loop changes.

    After every update the weights that the mask does not keep are exactly zero, whatever the
    optimizer does; it sees no gradients of them. Masks are chosen when the schedule says so, by the
    parameters as they stood before that update. Weights that come back start at zero, with the
    optimizer's memory of them as new.

    It must be the outermost transformation: what comes after it may move the zeros.

    Args:
        inner: Any Optax optimizer.
        spec: The pattern and the final sparsity, as for `make_mask`. N:M patterns get there by
            steps: with m kept at first, with n at the end.
        schedule: When masks are chosen, and how sparse: `gradual`, `one_shot`, `constant`,
            `periodic`.
        metric: How weights are scored, as for `importance`; or `averaged(...)`, which follows
            gradients.
        rule: What is dropped and grown: by default weights only go. `rigl()`,
            `sparse_evolution()`, `acdc()`.
        where: Which leaves may be pruned.
        uses: What `trace` read from the model: it answers "input" and "output", and by default the
            leaves that products and convolutions read are pruned.
        packed: Whether the state holds the mask at one bit a weight.
        key: A PRNG key, for rules that need one.
        mask: The mask to begin with, such as `mask_from_zeros(params)`; by default all is kept.
        steps: How many updates the training will make: a schedule that is not done by then is
            refused.

    Returns:
        The transformation. Its `update` needs `params`.

    Raises:
        PruningError: The schedule and the rule do not go together; or, from `init` and `update`,
            as `make_mask` does.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp, optax
        >>> tx = jp.sparsify(optax.sgd(0.5), 0.5, schedule=jp.one_shot(at=1))
        >>> params = {"kernel": jnp.array([[4.0, 1.0], [3.0, 2.0]])}
        >>> state = tx.init(params)
        >>> updates, state = tx.update({"kernel": jnp.ones((2, 2))}, state, params)
        >>> optax.apply_updates(params, updates)
        {'kernel': Array([[3.5, 0. ],
               [2.5, 0. ]], dtype=float32)}
    """
    import optax  # noqa: PLC0415  # importing jaxprune without training does not import Optax

    _check_arguments(inner, schedule, metric, rule, steps)
    inner = optax.with_extra_args_support(inner)
    how = How(schedule, rule, metric)

    def decided(params: Any) -> Assignment:
        wanted = spec
        if rule.allocation is not None and isinstance(spec, numbers.Real):
            wanted = allocate(params, float(spec), rule.allocation, where=where, uses=uses)
        return assign(leaves(params), wanted, where, uses)

    def init(params: Any) -> SparsifyState:
        if not leaves(params):
            # `optax.tree_map_params` passes a placeholder in place of the parameters.
            zero = jnp.int32(0)
            return SparsifyState(zero, params, inner.init(params), (), (), (), zero)
        assignment = decided(params)
        raise_problems(_falling(entry.spec, schedule, rule) for entry in assignment.entries)
        members = assignment.members
        kept = first_masks(params, mask, members)
        if schedule.fires(0):
            # Nothing grows before there are gradients to say what.
            before = Before(kept, (), _zeros(assignment), None)
            kept, _ = next_masks(assignment, before, how._replace(rule=Rule()), 0, True)
        state = inner.init(params)
        if mask_states(state):
            raise PruningError(
                "sparsify wraps an optimizer that holds a mask of its own: wrap the plain "
                "optimizer, once, with all specs in one mapping."
            )
        tree = rebuild(params, kept)
        return SparsifyState(
            count=jnp.zeros((), jnp.int32),
            mask=pack(tree) if packed else tree,
            inner=state,
            average=rebuild(params, _zeros(assignment)) if isinstance(metric, Averaged) else (),
            growth=rebuild(params, _zeros(assignment)) if rule.decay else (),
            key=() if key is None else jnp.copy(one_key(key, "key=jax.random.key(0)")),
            strays=jnp.zeros((), jnp.int32),
        )

    def update(
        updates: Any, state: SparsifyState, params: Any = None, **extra: Any
    ) -> tuple[Any, SparsifyState]:
        check_params(params, "sparsify")
        assignment = decided(params)
        tree = unpack(state.mask, params) if packed else state.mask
        kept = state_masks(params, tree, assignment.members)
        grads = arrays_like(params, updates, kept, "updates")
        weights = [leaf.value for leaf in assignment.leaves]
        averages = _averages(metric, state.average, params, weights, grads)
        growth = grads
        if rule.decay:
            growth = blended(
                values_like(params, state.growth, "the state's growth"), grads, rule.decay
            )
        count = state.count + 1

        fires, fired = schedule.fires(count), schedule.fires(state.count)
        # Looked at after an update that chose a mask; `init`'s is carried out by the first update.
        look = (state.count > 0) & (fired | (state.count == 1))

        def step(now: _Masks) -> _Masks:
            strays = jnp.where(look, stray_count(now.kept, weights), now.strays)
            before = Before(now.kept, growth, averages, _folded(state.key, count))
            # That no count is negative the compiler does not know: so it counts before it writes
            # new masks, and writes them where the old ones lie.
            new, moving = next_masks(assignment, before, how, count, fires & (strays >= 0))
            return _Masks(
                kept=new,
                stored=pack(rebuild(params, new)) if packed else None,
                strays=strays,
                moving=moving if rule.grow else None,
            )

        now = _Masks(kept, state.mask if packed else None, state.strays, None)
        now = _if_due(fires | look, step, now, grows=rule.grow is not None)
        # From here on the old masks are not read, so that the new ones may lie in their place.
        moving = now.moving or now.kept
        # At every update, before the optimizer reads it: so it is part of the optimizer's own pass,
        # and what is stored is what was read.
        memory = renewed(inner, state.inner, params, moving) if rule.grow else state.inner
        sparse_grads = rebuild(updates, map(kept_only, moving, grads))
        moved, inner_state = inner.update(sparse_grads, memory, params, **extra)
        moves = arrays_like(params, moved, kept, "the optimizer's updates")
        return rebuild(updates, map(zeroing, moving, moves, weights)), SparsifyState(
            count=count,
            mask=now.stored if packed else rebuild(params, now.kept),
            inner=inner_state,
            average=rebuild(params, averages) if isinstance(metric, Averaged) else (),
            growth=rebuild(params, growth) if rule.decay else (),
            key=state.key,
            strays=now.strays,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _if_due(due: Any, step: Callable[[_Masks], _Masks], now: _Masks, *, grows: bool) -> _Masks:
    """`step(now)` if it is due; else the masks as they are, of which all that are kept move."""

    def rest(now: _Masks) -> _Masks:
        if not grows:
            return now
        # The compiler must not know that these are the same: arrays that leave a condition twice
        # are copied at every update.
        same = [None if mask is None else mask & (now.strays >= 0) for mask in now.kept]
        return now._replace(moving=same)

    if not is_traced(due):  # with nothing to compile
        return step(now) if due else rest(now)
    return lax.cond(due, step, rest, now)


def _averages(
    metric: Any, average: Any, params: Any, weights: Sequence[Any], grads: Sequence[Any]
) -> list[Any]:
    """The averages of the scores after those by these gradients, leaf by leaf; None without."""
    if not isinstance(metric, Averaged):
        return [None] * len(weights)
    before = values_like(params, average, "the state's average")
    scores = [
        None if old is None else scores_of(metric.of(grad), [Leaf("", as_array(weight))])[0]
        for old, weight, grad in zip(before, weights, grads, strict=True)
    ]
    return blended(before, scores, metric.decay)


def _zeros(assignment: Assignment) -> list[Any]:
    """Averages to begin with: new arrays at each call, since each may be donated."""

    def zeros(value: jax.Array) -> jax.Array:
        # A bfloat16 average of many updates would stop moving.
        return jnp.zeros_like(value, jnp.promote_types(value.dtype, jnp.float32))

    return [
        zeros(as_array(leaf.value)) if i in assignment.specs else None
        for i, leaf in enumerate(assignment.leaves)
    ]


def _folded(key: Any, count: Any) -> Any:
    return None if isinstance(key, tuple) else jax.random.fold_in(key, count)


def _falling(spec: Any, schedule: Schedule, rule: Rule) -> Problem | None:
    end = target(spec)
    if rule.grow is not None or is_traced(end) or end >= schedule.initial:
        return None
    return Problem(
        InvalidSparsity,
        f"{schedule.name} begins at a sparsity of {schedule.initial} and falls to that of {spec}, "
        "and the rule grows no weights: lower initial=, or pass rule=jp.rigl().",
    )


def _check_arguments(inner: Any, schedule: Any, metric: Any, rule: Any, steps: Any) -> None:
    if not hasattr(inner, "init") or not hasattr(inner, "update"):
        raise PruningError(
            f"inner is an Optax optimizer, called: jp.sparsify(optax.adam(1e-3), ...), got "
            f"{shown(inner)}."
        )
    if not isinstance(metric, Averaged):
        scores_of(metric, [])  # refuses what is not a metric
    if not isinstance(rule, Rule):
        raise PruningError(
            f"rule is jp.Rule(), jp.rigl(), jp.sparse_evolution() or jp.acdc(), called: got "
            f"{shown(rule)}."
        )
    if not isinstance(schedule, Schedule):
        raise PruningError(
            f"schedule is one of jp.one_shot, jp.gradual, jp.constant and jp.periodic, called: got "
            f"{shown(schedule)}."
        )
    if isinstance(metric, Averaged) and schedule.fires(0) and _begins_sparse(schedule):
        raise PruningError(
            f"{schedule.name} prunes before the first update, when an averaged metric has seen no "
            "gradients: begin later."
        )
    if schedule.falls and rule.grow is None:
        raise InvalidSparsity(
            f"the sparsity of {schedule.name} falls, and the rule grows no weights: pass "
            "rule=jp.acdc()."
        )
    if steps is not None and not isinstance(steps, int):
        raise PruningError(f"steps counts updates, a Python integer, got {shown(steps)}.")
    if steps is not None and schedule.last > steps:
        raise InvalidSparsity(
            f"{schedule.name} meets its target after {schedule.last} updates, and the training "
            f"makes {steps}: end it earlier."
        )


def _begins_sparse(schedule: Schedule) -> bool:
    with jax.ensure_compile_time_eval():
        return float(schedule.sparsity(0, 0.5)) > 0

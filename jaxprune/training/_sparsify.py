"""The transformation of an optimizer that keeps a model sparse."""

import functools
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._allocation import allocate
from jaxprune._assign import Assignment, assign
from jaxprune._errors import (
    InvalidSparsity,
    Problem,
    PruningError,
    StructureMismatch,
    raise_problems,
)
from jaxprune._metrics import L1, Metric, one_key, scores_of
from jaxprune._packing import pack, unpack
from jaxprune._prune import mask_problem
from jaxprune._specs.protocol import target
from jaxprune._text import shown
from jaxprune._tree import Leaf, aligned, as_array, is_array, is_traced, leaves, rebuild
from jaxprune._where import Where, is_weight
from jaxprune.training._next_mask import Before, How, blended, next_masks
from jaxprune.training._rules import Averaged, Rule
from jaxprune.training._schedules import Schedule
from jaxprune.training._state import KeepMaskState, SparsifyState, ours, strays_of

if TYPE_CHECKING:
    import optax


def sparsify(
    inner: "optax.GradientTransformation",
    spec: Any,
    *,
    schedule: Schedule,
    metric: Metric | Averaged = L1(),
    rule: Rule = Rule(),
    where: Where = is_weight,
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
    import optax  # noqa: PLC0415  # who does not train does not wait for it

    _check_arguments(inner, schedule, metric, rule, steps)
    inner = optax.with_extra_args_support(inner)

    def decided(params: Any) -> Assignment:
        wanted = spec
        if rule.allocation is not None and isinstance(spec, numbers.Real):
            wanted = allocate(params, float(spec), rule.allocation, where=where)
        return assign(leaves(params), wanted, where)

    def init(params: Any) -> SparsifyState:
        if not leaves(params):
            # Optax finds what is shaped like the parameters by a placeholder for them.
            return SparsifyState(np.int32(0), params, inner.init(params), (), (), (), np.int32(0))
        assignment = decided(params)
        raise_problems(_falling(entry.spec, schedule, rule) for entry in assignment.entries)
        found, scope = assignment.leaves, assignment.members
        kept = first_mask(params, mask, scope)
        if schedule.fires(0):
            # Nothing grows before there are gradients to say what.
            before = Before(kept, (), _zeros(found, scope), None)
            kept = next_masks(assignment, before, How(schedule, Rule(), metric), 0)
        state = inner.init(params)
        if ours(state):
            raise PruningError(
                "sparsify wraps an optimizer that holds a mask of its own: wrap the plain "
                "optimizer, once, with all specs in one mapping."
            )
        tree = rebuild(params, kept)
        return SparsifyState(
            count=jnp.zeros((), jnp.int32),
            mask=pack(tree) if packed else tree,
            inner=state,
            average=rebuild(params, _zeros(found, scope)) if isinstance(metric, Averaged) else (),
            growth=rebuild(params, _zeros(found, scope)) if rule.decay else (),
            key=() if key is None else jnp.copy(one_key(key, "key=jax.random.key(0)")),
            strays=jnp.zeros((), jnp.int32),
        )

    def update(
        updates: Any, state: SparsifyState, params: Any = None, **extra: Any
    ) -> tuple[Any, SparsifyState]:
        _check_given(params, "sparsify")
        tree = unpack(state.mask, params) if packed else state.mask
        assignment = decided(params)
        kept = _fitting(params, tree, assignment.members)
        grads = values_like(params, updates, kept, "updates")
        weights = [leaf.value for leaf in assignment.leaves]
        seen = rebuild(updates, [_where(m, g, 0) for m, g in zip(kept, grads, strict=True)])
        moved, memory = inner.update(seen, state.inner, params, **extra)
        steps_ = values_like(params, moved, kept, "the optimizer's updates")
        count = state.count + 1
        averages = _averages(metric, state.average, params, weights, grads)
        growth = grads
        if rule.decay:
            growth = blended(_values(params, state.growth, "the state's growth"), grads, rule.decay)

        def anew(kept: list[Any]) -> list[Any]:
            before = Before(kept, growth, averages, _folded(state.key, count))
            return next_masks(assignment, before, How(schedule, rule, metric), count)

        # After an update that chose a mask; one that `init` chose is carried out by the first.
        due = (state.count > 0) & (schedule.fires(state.count) | (state.count == 1))
        strays = lax.cond(due, strays_of, lambda *_: state.strays, kept, weights)
        before, kept = kept, lax.cond(schedule.fires(count), anew, lambda kept: kept, kept)
        stay = kept
        if rule.grow is not None:
            # Not under a condition: there it would copy the whole state, here it is fused.
            grown = [None if m is None else m & ~b for m, b in zip(kept, before, strict=True)]
            memory = _renewed(memory, inner.init(params), params, grown)
            stay = [None if m is None else m & b for m, b in zip(kept, before, strict=True)]
        out = [_zeroing(m, u, w) for m, u, w in zip(stay, steps_, weights, strict=True)]
        tree = rebuild(params, kept)
        return rebuild(updates, out), SparsifyState(
            count=count,
            mask=pack(tree) if packed else tree,
            inner=memory,
            average=rebuild(params, averages) if isinstance(metric, Averaged) else (),
            growth=rebuild(params, growth) if rule.decay else (),
            key=state.key,
            strays=strays,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def keep_mask(mask: Any) -> "optax.GradientTransformationExtraArgs":
    """Keeps a fixed mask: the last transformation in an `optax.chain`.

    After every update the weights that the mask does not keep are exactly zero.

    Args:
        mask: A tree like the parameters: bool, and None where a leaf is left alone.

    Returns:
        The transformation. Its `update` needs `params`.

    Raises:
        StructureMismatch: From `init`: the mask does not fit the parameters.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp, optax
        >>> params, mask = jp.prune({"kernel": jnp.array([[4.0, 1.0], [3.0, 2.0]])}, 0.5)
        >>> tx = optax.chain(optax.sgd(0.5), jp.keep_mask(mask))
        >>> updates, _ = tx.update({"kernel": jnp.ones((2, 2))}, tx.init(params), params)
        >>> optax.apply_updates(params, updates)
        {'kernel': Array([[3.5, 0. ],
               [2.5, 0. ]], dtype=float32)}
    """
    import optax  # noqa: PLC0415

    def init(params: Any) -> KeepMaskState:
        if not leaves(params):
            return KeepMaskState(params)
        return KeepMaskState(rebuild(params, _given(params, mask)))

    def update(
        updates: Any, state: KeepMaskState, params: Any = None, **extra: Any
    ) -> tuple[Any, KeepMaskState]:
        del extra
        _check_given(params, "keep_mask")
        kept = _values(params, state.mask, "the state's mask")
        steps = values_like(params, updates, kept, "updates")
        weights = _plain(params)
        out = [_zeroing(m, u, w) for m, u, w in zip(kept, steps, weights, strict=True)]
        return rebuild(updates, out), state

    return optax.GradientTransformationExtraArgs(init, update)


def _averages(
    metric: Any, average: Any, params: Any, weights: Sequence[Any], grads: Sequence[Any]
) -> list[Any]:
    """The averages of the scores after those by these gradients, leaf by leaf; None without."""
    if not isinstance(metric, Averaged):
        return [None] * len(weights)
    before = _values(params, average, "the state's average")
    now = [
        None if old is None else scores_of(metric.of(grad), [Leaf("", as_array(weight))])[0]
        for old, weight, grad in zip(before, weights, grads, strict=True)
    ]
    return blended(before, now, metric.decay)


def _values(params: Any, tree: Any, what: str) -> list[Any]:
    """What a tree like the parameters holds, leaf by leaf."""
    return [value for _, value in aligned(params, tree, what)]


def values_like(params: Any, tree: Any, kept: Sequence[Any], what: str) -> list[Any]:
    """The same, where a mask is an array of the parameter's shape.

    Raises:
        StructureMismatch: A leaf is missing, or has another shape.
    """
    pairs = list(aligned(params, tree, what))

    def problem(leaf: Leaf, value: Any, mask: Any) -> Problem | None:
        shape = getattr(value, "shape", None)
        if mask is None or shape == leaf.value.shape:
            return None
        got = "it is none" if shape is None else f"it has shape {tuple(shape)}"
        return Problem(
            StructureMismatch,
            f"{leaf.name} has shape {tuple(leaf.value.shape)}, and in {what} {got}: expected a "
            "tree like the parameters, such as jax.grad gives.",
        )

    raise_problems(problem(*pair, mask) for pair, mask in zip(pairs, kept, strict=True))
    return [value for _, value in pairs]


def _renewed(state: Any, fresh: Any, params: Any, grown: Sequence[Any]) -> Any:
    """An optimizer state in which the memory of grown weights is as new.

    Whatever lies at the end of a path that is a parameter's, and has its shape, is taken for memory
    of that parameter: so it is found in any optimizer, whatever wraps it.
    """
    marks = {
        leaf.path: (leaf.value.shape, mark)
        for leaf, mark in zip(leaves(params), grown, strict=True)
        if mark is not None
    }

    held = leaves(state)
    places = {leaf.path for leaf in held}

    @functools.cache
    def company(prefix: str) -> int:
        # A parameter may be called as a field of the state is: what holds more of them is meant.
        return sum(_joined(prefix, path) in places for path in marks)

    def renewed(old: Leaf, new: Any) -> Any:
        if not is_array(old.value):
            return old.value
        parts = old.path.split("/")
        splits = [("/".join(parts[:i]), "/".join(parts[i:])) for i in range(len(parts) + 1)]
        fitting = [
            (company(prefix), path)
            for prefix, path in splits
            if path in marks and marks[path][0] == old.value.shape
        ]
        if not fitting:
            return old.value
        return jnp.where(marks[max(fitting)[1]][1], new, old.value)

    return rebuild(state, [renewed(*pair) for pair in zip(held, _plain(fresh), strict=True)])


def _fitting(params: Any, mask: Any, scope: Sequence[int]) -> list[Any]:
    """The masks leaf by leaf, if they are those of these parameters and this spec."""
    pairs = list(aligned(params, mask, "the state's mask"))

    def problem(i: int, leaf: Leaf, kept: Any) -> Problem | None:
        if (kept is not None) == (i in scope):
            return mask_problem(leaf, kept)
        what = "has a mask, and is to have none" if kept is not None else "has no mask"
        return Problem(
            StructureMismatch,
            f"{leaf.name} {what} by this spec and where=: the state was made by another. Make it "
            "anew with tx.init(params), or restore it with the spec it was made by.",
        )

    raise_problems(problem(i, *pair) for i, pair in enumerate(pairs))
    return [kept for _, kept in pairs]


def first_mask(params: Any, mask: Any, scope: Sequence[int]) -> list[Any]:
    """The masks to begin with, leaf by leaf: a user's, where there is one, and else all is kept."""
    found = leaves(params)
    given = [None] * len(found) if mask is None else _given(params, mask)

    def first(leaf: Leaf, kept: Any) -> Any:
        return jnp.ones_like(as_array(leaf.value), bool) if kept is None else kept

    def idle(i: int) -> Problem | None:
        if given[i] is None or i in scope:
            return None
        return Problem(
            StructureMismatch,
            f"{found[i].name} has a mask, and by this spec and where= it is left dense: widen "
            "where=, or put None there.",
        )

    raise_problems(map(idle, range(len(found))))
    return [
        first(leaf, kept) if i in scope else None
        for i, (leaf, kept) in enumerate(zip(found, given, strict=True))
    ]


def _given(params: Any, mask: Any) -> list[Any]:
    """The masks that a user gave, leaf by leaf."""
    pairs = list(aligned(params, mask, "mask"))
    raise_problems(mask_problem(leaf, kept) for leaf, kept in pairs)
    # A copy: training steps donate their state, and the user keeps the mask.
    return [None if kept is None else jnp.copy(kept) for _, kept in pairs]


def _zeros(found: list[Leaf], scope: Sequence[int]) -> list[Any]:
    """Averages to begin with, of their own for each use: whoever donates them does it once."""

    def zeros(value: jax.Array) -> jax.Array:
        # In bfloat16 an average of many updates would stand still.
        return jnp.zeros_like(value, jnp.promote_types(value.dtype, jnp.float32))

    return [zeros(as_array(leaf.value)) if i in scope else None for i, leaf in enumerate(found)]


def _where(mask: Any, values: Any, other: Any) -> Any:
    return values if mask is None else jnp.where(mask, values, other)


def _zeroing(mask: Any, step: Any, weight: Any) -> Any:
    """The update after which a weight is exactly zero where it is not kept."""
    # In the wider of the two types, in which the sum is taken: in a narrower one -w is not exact.
    return step if mask is None else jnp.where(mask, step, -as_array(weight))


def _joined(prefix: str, path: str) -> str:
    return "/".join(part for part in (prefix, path) if part)


def _plain(tree: Any) -> list[Any]:
    return [leaf.value for leaf in leaves(tree)]


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
        scores_of(metric, [])  # refuses what is no metric
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


def _check_given(params: Any, name: str) -> None:
    if params is None:
        raise PruningError(
            f"{name} makes zeros of parameters, and needs them: call "
            "tx.update(grads, state, params)."
        )


def _begins_sparse(schedule: Schedule) -> bool:
    with jax.ensure_compile_time_eval():
        return float(schedule.sparsity(0, 0.5)) > 0

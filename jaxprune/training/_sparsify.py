"""The transformation of an optimizer that keeps a model sparse, and the state in which it does."""

import numbers
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._allocation import allocate
from jaxprune._bits import nonzero
from jaxprune._errors import (
    InvalidSparsity,
    NoMatch,
    Problem,
    PruningError,
    StructureMismatch,
    raise_problems,
    shown,
)
from jaxprune._masks import mask_problem, masks_by, pack, unpack, without
from jaxprune._metrics import L1, Metric, scores_of
from jaxprune._plan import Rule as Decision
from jaxprune._plan import decide
from jaxprune._specs import NM, at_sparsity
from jaxprune._tree import (
    Leaf,
    Where,
    aligned,
    as_array,
    is_array,
    is_traced,
    is_weight,
    leaves,
    rebuild,
)
from jaxprune.training._rules import Averaged, Rule
from jaxprune.training._schedules import Schedule

if TYPE_CHECKING:
    import optax


class SparsifyState(NamedTuple):
    """What `sparsify` remembers between updates; `current` finds it in any optimizer state.

    Attributes:
        count: The updates made, an int32 scalar.
        mask: The mask, packed if so asked for: a tree like the parameters.
        inner: The state of the optimizer that is wrapped.
        average: What an `averaged` metric has gathered: a tree like the parameters, or ().
        key: The PRNG key, or ().
        strays: Weights that were not zero, although the mask did not keep them, when last looked
            at, the update after a mask was chosen: something moves them after `sparsify`.
    """

    count: Any
    mask: Any
    inner: Any
    average: Any
    key: Any
    strays: Any


class KeepMaskState(NamedTuple):
    """What `keep_mask` remembers: the mask, a tree like the parameters.

    Attributes:
        mask: The mask.
    """

    mask: Any


def sparsify(
    inner: "optax.GradientTransformation",
    spec: Any,
    *,
    schedule: Schedule,
    metric: Metric | Averaged = L1(),  # noqa: B008  # frozen and empty
    rule: Rule = Rule(),  # noqa: B008  # frozen
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

    _check_arguments(inner, schedule, rule, steps)
    inner = optax.with_extra_args_support(inner)

    def decided(params: Any) -> tuple[list[Leaf], list[Decision]]:
        found = leaves(params)
        wanted = spec
        if rule.allocation is not None and isinstance(spec, numbers.Real):
            wanted = allocate(params, float(spec), rule.allocation, where=where)
        return found, decide(found, wanted, where)[0]

    def chosen(params: Any, before: _Before, count: Any) -> list[Any]:
        found, decisions = decided(params)
        return _chosen(found, decisions, before, _How(schedule, rule, metric), count)

    def init(params: Any) -> SparsifyState:
        if not any(is_array(leaf.value) for leaf in leaves(params)):
            # Optax finds what is shaped like the parameters by a placeholder for them.
            return SparsifyState(np.int32(0), params, inner.init(params), (), (), np.int32(0))
        found, decisions = decided(params)
        raise_problems(_falling(decision, schedule, rule) for decision in decisions)
        scope = {i for decision in decisions for i in decision.members}
        kept = _first(params, mask, scope)
        averages: Any = [
            jnp.zeros_like(as_array(leaf.value)) if i in scope else None
            for i, leaf in enumerate(found)
        ]
        if schedule.fires(0):
            zeros = [jnp.zeros_like(m) if m is not None else None for m in kept]
            kept = chosen(params, _Before(kept, zeros, averages, key), 0)
        state = inner.init(params)
        if _ours(state):
            raise PruningError(
                "sparsify wraps an optimizer that holds a mask of its own: wrap the plain "
                "optimizer, once, with all specs in one mapping."
            )
        tree = rebuild(params, kept)
        return SparsifyState(
            count=jnp.zeros((), jnp.int32),
            mask=pack(tree) if packed else tree,
            inner=state,
            average=rebuild(params, averages) if isinstance(metric, Averaged) else (),
            key=() if key is None else key,
            strays=jnp.zeros((), jnp.int32),
        )

    def update(
        updates: Any, state: SparsifyState, params: Any = None, **extra: Any
    ) -> tuple[Any, SparsifyState]:
        if params is None:
            raise PruningError(
                "sparsify makes zeros of parameters, and needs them: call "
                "tx.update(grads, state, params)."
            )
        tree = unpack(state.mask, params) if packed else state.mask
        kept = _fitting(params, tree, decided(params)[1])
        grads = [value for _, value in aligned(params, updates, "updates")]
        weights = [leaf.value for leaf in leaves(params)]
        count = state.count + 1
        averages = _gathered(metric, state.average, params, weights, grads)
        seen = rebuild(updates, [_where(m, g, 0) for m, g in zip(kept, grads, strict=True)])
        moved, inner_state = inner.update(seen, state.inner, params, **extra)
        steps_ = [value for _, value in aligned(params, moved, "updates")]

        def choose(kept: list[Any]) -> list[Any]:
            return chosen(params, _Before(kept, grads, averages, _folded(state.key, count)), count)

        # After an update that chose a mask; one that `init` chose is carried out by the first.
        due = (state.count > 0) & (schedule.fires(state.count) | (state.count == 1))
        strays = lax.cond(due, _strays, lambda *_: state.strays, kept, weights)
        before, kept = kept, lax.cond(schedule.fires(count), choose, lambda kept: kept, kept)
        if rule.grow is not None:
            # Not under a condition: there it would copy the whole state, here it is fused.
            grown = [None if m is None else m & ~b for m, b in zip(kept, before, strict=True)]
            steps_ = [_where(_not(g), u, 0) for g, u in zip(grown, steps_, strict=True)]
            inner_state = _renewed(inner_state, inner.init(params), params, grown)
        out = [_zeroing(m, u, w) for m, u, w in zip(kept, steps_, weights, strict=True)]
        tree = rebuild(params, kept)
        average = rebuild(params, averages) if isinstance(metric, Averaged) else ()
        return rebuild(updates, out), SparsifyState(
            count, pack(tree) if packed else tree, inner_state, average, state.key, strays
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
        if not any(is_array(leaf.value) for leaf in leaves(params)):
            return KeepMaskState(params)
        return KeepMaskState(rebuild(params, _given(params, mask)))

    def update(
        updates: Any, state: KeepMaskState, params: Any = None, **extra: Any
    ) -> tuple[Any, KeepMaskState]:
        del extra
        if params is None:
            raise PruningError(
                "keep_mask makes zeros of parameters, and needs them: call "
                "tx.update(grads, state, params)."
            )
        kept = [value for _, value in aligned(params, state.mask, "the state's mask")]
        steps = [value for _, value in aligned(params, updates, "updates")]
        weights = [leaf.value for leaf in leaves(params)]
        out = [_zeroing(m, u, w) for m, u, w in zip(kept, steps, weights, strict=True)]
        return rebuild(updates, out), state

    return optax.GradientTransformationExtraArgs(init, update)


def current(state: Any) -> Any:
    """The state of `sparsify` or `keep_mask` in an optimizer state, however deep it lies.

    Args:
        state: Any optimizer state.

    Returns:
        The `SparsifyState` or `KeepMaskState`: its `mask`, and `count`. It warns if something moved
        the zeros that `sparsify` made.

    Raises:
        NoMatch: There is none, or there are several.
    """
    found = _ours(state)
    if len(found) != 1:
        raise NoMatch(
            f"expected one state of sparsify or keep_mask in the optimizer state, found "
            f"{len(found)}: pass the state of one optimizer, or a part of it."
        )
    strays = getattr(found[0], "strays", 0)
    if isinstance(strays, jax.Array) and not is_traced(strays) and int(strays):
        warnings.warn(
            f"{int(strays)} weights that the mask of sparsify does not keep were not zero: "
            "something moved them after it. sparsify must be the outermost transformation, and its "
            "updates applied as they are.",
            stacklevel=2,
        )
    return found[0]


def _ours(state: Any) -> list[Any]:
    def is_ours(node: Any) -> bool:
        return isinstance(node, SparsifyState | KeepMaskState)

    return [leaf.value for leaf in leaves(state, is_leaf=is_ours) if is_ours(leaf.value)]


class _How(NamedTuple):
    """How masks are chosen, as `sparsify` was told."""

    schedule: Schedule
    rule: Rule
    metric: Any


class _Before(NamedTuple):
    """What a new mask follows from, leaf by leaf."""

    kept: Sequence[Any]
    grads: Sequence[Any]
    averages: Sequence[Any]
    key: Any


def _chosen(
    found: list[Leaf], decisions: list[Decision], before: _Before, how: _How, count: Any
) -> list[Any]:
    """The masks after `count` updates, leaf by leaf."""
    schedule, rule, metric = how
    scope = sorted(i for decision in decisions for i in decision.members)
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
        sound &= jnp.stack([jnp.all(jnp.isfinite(g)) for g in growth]).all()
        held = [jnp.where(stay[i], jnp.inf, g) for i, g in zip(scope, growth, strict=True)]
        new = best(held, wanted)
    return [jnp.where(sound, new[i], m) if i in new else None for i, m in enumerate(before.kept)]


def _gathered(
    metric: Any, average: Any, params: Any, weights: Sequence[Any], grads: Sequence[Any]
) -> list[Any]:
    """The averages after one more gradient; None where there are none."""
    if not isinstance(metric, Averaged):
        return [None] * len(weights)
    old = [value for _, value in aligned(params, average, "the state's average")]

    def blend(before: Any, weight: Any, grad: Any) -> Any:
        if before is None:
            return None
        now = metric.of(weight, grad)
        mean = (metric.decay * before + (1 - metric.decay) * now).astype(before.dtype)
        return jnp.where(jnp.isfinite(now), mean, before)

    return [blend(*triple) for triple in zip(old, weights, grads, strict=True)]


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

    def renewed(old: Leaf, new: Any) -> Any:
        if not is_array(old.value):
            return old.value
        parts = old.path.split("/")
        for start in range(len(parts) + 1):
            shape, mark = marks.get("/".join(parts[start:]), (None, None))
            if shape == old.value.shape:
                return jnp.where(mark, new, old.value)
        return old.value

    pairs = zip(leaves(state), leaves(fresh), strict=True)
    return rebuild(state, [renewed(old, new.value) for old, new in pairs])


def _fitting(params: Any, mask: Any, decisions: list[Decision]) -> list[Any]:
    """The masks leaf by leaf, if they are those of these parameters and this spec."""
    scope = {i for decision in decisions for i in decision.members}
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


def _first(params: Any, mask: Any, scope: set[int]) -> list[Any]:
    """The masks to begin with, leaf by leaf: a user's, where there is one, and else all is kept."""
    found = leaves(params)
    given = [None] * len(found) if mask is None else _given(params, mask)

    def first(leaf: Leaf, kept: Any) -> Any:
        return jnp.ones_like(as_array(leaf.value), bool) if kept is None else kept

    return [
        first(leaf, kept) if i in scope else None
        for i, (leaf, kept) in enumerate(zip(found, given, strict=True))
    ]


def _given(params: Any, mask: Any) -> list[Any]:
    """The masks that a user gave, leaf by leaf."""
    pairs = list(aligned(params, mask, "mask"))
    raise_problems(mask_problem(leaf, kept) for leaf, kept in pairs)
    return [None if kept is None else as_array(kept) for _, kept in pairs]


def _where(mask: Any, values: Any, other: Any) -> Any:
    return values if mask is None else jnp.where(mask, values, other)


def _not(mask: Any) -> Any:
    return None if mask is None else ~mask


def _zeroing(mask: Any, step: Any, weight: Any) -> Any:
    """The update after which a weight is exactly zero where it is not kept."""
    # In the wider of the two types, in which the sum is taken: in a narrower one -w is not exact.
    return step if mask is None else jnp.where(mask, step, -as_array(weight))


def _folded(key: Any, count: Any) -> Any:
    return None if isinstance(key, tuple) else jax.random.fold_in(key, count)


def _strays(kept: Sequence[Any], weights: Sequence[Any]) -> jax.Array:
    """How many weights are not zero although the masks do not keep them."""
    counts = [
        jnp.sum(nonzero(as_array(w)) & ~m, dtype=jnp.int32)
        for m, w in zip(kept, weights, strict=True)
        if m is not None
    ]
    return jnp.stack(counts).sum(dtype=jnp.int32)


def _falling(decision: Decision, schedule: Schedule, rule: Rule) -> Problem | None:
    spec = decision.spec
    target = 1 - spec.n / spec.m if isinstance(spec, NM) else getattr(spec, "sparsity", 1.0)
    if rule.grow is not None or is_traced(target) or target >= schedule.initial:
        return None
    return Problem(
        InvalidSparsity,
        f"{schedule.name} begins at a sparsity of {schedule.initial} and falls to that of {spec}, "
        "and the rule grows no weights: lower initial=, or pass rule=jp.rigl().",
    )


def _check_arguments(inner: Any, schedule: Any, rule: Any, steps: Any) -> None:
    if not hasattr(inner, "init") or not hasattr(inner, "update"):
        raise PruningError(
            f"inner is an Optax optimizer, called: jp.sparsify(optax.adam(1e-3), ...), got "
            f"{shown(inner)}."
        )
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

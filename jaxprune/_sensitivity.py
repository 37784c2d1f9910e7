"""How the loss answers when one leaf alone is pruned: measured, to be looked at or allocated by."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._assign import assign
from jaxprune._errors import InvalidSparsity, Problem, PruningError, raise_problems
from jaxprune._kernels.device import count_true
from jaxprune._kernels.ranked import Ranked
from jaxprune._kernels.sharding import placed
from jaxprune._metrics import L1, Metric, scores_of
from jaxprune._specs.checks import check_sparsity
from jaxprune._specs.protocol import Work, at_sparsity, select
from jaxprune._specs.unstructured import Unstructured
from jaxprune._text import integer, shown, table
from jaxprune._tree import Leaf, as_array, concrete_leaves, is_array, is_prunable, rebuild
from jaxprune._where import Where, is_weight, leave_out

Numbers: TypeAlias = np.ndarray[Any, Any]
_Arrays: TypeAlias = dict[int, jax.Array]  # by the leaf's place in the tree

_COLUMNS = 8  # sparsities of a printed table


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """The loss with each leaf alone pruned, all others dense. Print it, plot it, allocate by it.

    Attributes:
        paths: The leaves, in the tree's order.
        sizes: How many weights each of them holds.
        sparsities: The sparsities asked for, rising.
        dense: The loss with nothing pruned.
        losses: The loss at each of them: float64 `[leaf, sparsity]`.
        removed: The weights that were removed for it: int64 `[leaf, sparsity]`.
    """

    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    sparsities: tuple[float, ...]
    dense: float
    losses: Numbers
    removed: Numbers

    def __str__(self) -> str:
        last = len(self.sparsities) - 1
        shown_columns = sorted({round(i * last / (_COLUMNS - 1)) for i in range(_COLUMNS)})
        header = ["leaf", "weights", *(f"{self.sparsities[j]:g}" for j in shown_columns)]
        rows: list[Sequence[str]] = [
            [path or "(array)", integer(size), *(f"{losses[j]:.4g}" for j in shown_columns)]
            for path, size, losses in zip(self.paths, self.sizes, self.losses, strict=True)
        ]
        return f"{table(header, rows)}\nThe loss with nothing pruned is {self.dense:.4g}."


def sensitivity(
    loss: Callable[..., Any],
    params: Any,
    sparsities: Sequence[float],
    spec: Any = Unstructured(0.0),
    *,
    inputs: Sequence[Any] = (),
    metric: Metric = L1(),
    where: Where = is_weight,
) -> Sensitivity:
    """Measures the loss against the sparsity of every leaf, each pruned alone.

    All of it is one compiled call, which evaluates the loss (leaves x sparsities + 1) times, one
    after the other. Besides the parameters it holds their scores and one pruned copy.

    Args:
        loss: A pure function, `loss(params, *inputs)`, that returns one number.
        params: Any tree of arrays.
        sparsities: The sparsities to try, rising.
        spec: The spec, or specs, as for `make_mask`. Each sparsity takes the place of its own; a
            global budget is that of the one leaf.
        inputs: What else the loss takes, such as `(x, y)`: trees of arrays. A batch that is spread
            over several processes must be passed here; smaller ones the loss may close over.
        metric: How weights are scored.
        where: Which leaves are measured.

    Returns:
        The losses. `jp.plot.sensitivity` draws them, and `allocate` takes them for a method.

    Raises:
        InvalidSparsity: The sparsities do not rise within [0, 1), or the list is empty.
        PruningError: The loss is no scalar, or not finite; the parameters are traced; or as
            `make_mask`.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> params = {"strong": jnp.array([[4.0, 3], [2, 5]]), "weak": jnp.array([[0.4, 0.3]])}
        >>> def loss(p):
        ...     return 100.0 - jnp.sum(p["strong"]) - jnp.sum(p["weak"])
        >>> print(jp.sensitivity(loss, params, [0.25, 0.5]))
        leaf    weights  0.25  0.5
        ---------------------------
        strong        4  87.3  90.3
        weak          2  85.3  85.6
        The loss with nothing pruned is 85.3.
    """
    leaves = concrete_leaves(params, "sensitivity")
    swept = _checked(sparsities)
    data = _tuple(inputs)
    assignment = assign(leaves, spec, where)
    arrays = {i: as_array(leaf.value) for i, leaf in enumerate(leaves) if _is_argument(leaf.value)}

    def loss_of(values: _Arrays, data: Sequence[Any]) -> Any:
        return loss(
            rebuild(params, [values.get(i, leaf.value) for i, leaf in enumerate(leaves)]), *data
        )

    _check_loss(jax.eval_shape(loss_of, arrays, data))
    entry_of, measured = assignment.entry_of(), assignment.members
    scored = scores_of(metric, [Leaf(leaves[i].path, arrays[i]) for i in measured])
    scores = dict(zip(measured, scored, strict=True))
    alike: dict[Any, _Group] = {}
    for i in measured:
        kind = (entry_of[i], jax.typeof(arrays[i]), jax.typeof(scores[i]))
        alike.setdefault(kind, _Group(assignment.specs[i], [])).members.append(i)
    groups = list(alike.values())
    place = {i: (g, m) for g, group in enumerate(groups, 1) for m, i in enumerate(group.members)}
    which, member, sparsity = zip(
        (0, 0, 0.0), *((*place[i], s) for i in measured for s in swept), strict=True
    )
    steps = np.array(which, np.int32), np.array(member, np.int32), np.array(sparsity, np.float32)
    results = _run(_program(loss_of, groups), arrays, scores, data, steps)
    dense = float(results[0][0])
    shape = len(measured), len(swept)
    losses = np.asarray(results[0][1:], np.float64).reshape(shape)
    removed = np.asarray(results[1][1:], np.int64).reshape(shape)
    _check_finite([leaves[i] for i in measured], swept, dense, losses)
    return Sensitivity(
        paths=tuple(leaves[i].path for i in measured),
        sizes=tuple(math.prod(arrays[i].shape) for i in measured),
        sparsities=swept,
        dense=dense,
        losses=losses,
        removed=removed,
    )


class _Group(NamedTuple):
    """Leaves that one piece of compiled code prunes: of one rule, shape, dtype and layout.

    Attributes:
        spec: The spec of that rule.
        members: The leaves' places in the tree.
    """

    spec: Any
    members: list[int]


def _program(
    loss_of: Callable[[_Arrays, Any], Any], groups: Sequence[_Group]
) -> Callable[..., Any]:
    """The compiled sweep: of steps (group, member, sparsity) the losses and what was removed.

    Groups are counted from 1; in group 0 nothing is pruned.

    One program, because compiling dominates: with 52 leaves of four shapes a program a shape took
    five times as long to compile, and one that calls the loss once a leaf would take longer yet. A
    step switches between as many pieces of selection code as there are groups, and `lax.map` takes
    one step after the other, so that memory holds one pruned copy of the parameters.
    """

    def branch(group: _Group) -> Callable[..., tuple[_Arrays, jax.Array]]:
        def pruned(
            arrays: _Arrays, scores: _Arrays, member: jax.Array, sparsity: jax.Array
        ) -> tuple[_Arrays, jax.Array]:
            score = lax.select_n(member, *(scores[i] for i in group.members))
            work = Work(at_sparsity(group.spec, sparsity), Ranked(score), 0)
            (kept,) = select(group.spec, [work])
            changed = {
                i: jnp.where(placed(kept, arrays[i]) | (member != m), arrays[i], 0)
                for m, i in enumerate(group.members)
            }
            high, low = count_true(~kept)
            return arrays | changed, high * 2**16 + low

        return pruned

    def dense(arrays: _Arrays, *_: Any) -> tuple[_Arrays, jax.Array]:
        return arrays, jnp.int32(0)

    branches = [dense, *map(branch, groups)]

    @jax.jit
    def run(arrays: _Arrays, scores: _Arrays, data: Any, steps: Any) -> tuple[jax.Array, jax.Array]:
        def one(step: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            which, *place = step
            pruned, removed = lax.switch(which, branches, arrays, scores, *place)
            return loss_of(pruned, data), removed

        return lax.map(one, steps)

    return run


def _run(program: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return jax.device_get(program(*arguments))
    except RuntimeError as error:
        # JAX refuses to compile constants of which a process holds a part only.
        if jax.process_count() > 1 and "non-addressable" in str(error):
            raise PruningError(
                "the loss closes over an array that is spread over several processes: pass it by "
                "inputs=(batch,), and write loss(params, batch)."
            ) from error
        raise


# --- what a user passed -------------------------------------------------------------------------


def _is_argument(value: Any) -> bool:
    """Whether the loss gets `value` as an argument: JAX arrays, for they may be spread."""
    return isinstance(value, jax.Array) or is_prunable(value)


def _tuple(inputs: Any) -> tuple[Any, ...]:
    if not isinstance(inputs, tuple | list):
        raise PruningError(
            f"expected inputs as a tuple of what the loss takes after the parameters, got "
            f"{shown(inputs)}: write inputs=(batch,)."
        )
    return tuple(inputs)


def _checked(sparsities: Any) -> tuple[float, ...]:
    values = list(sparsities) if np.ndim(sparsities) == 1 else []
    for value in values:
        check_sparsity(value)
    swept = tuple(map(float, values))
    if not swept or any(after <= before for before, after in itertools.pairwise(swept)):
        raise InvalidSparsity(
            f"expected sparsities that rise, and at least one, got {shown(sparsities)}: write "
            "[0.5, 0.8, 0.9] or numpy.linspace(0.1, 0.9, 9)."
        )
    return swept


def _check_loss(result: Any) -> None:
    if is_array(result) and not result.shape and jnp.issubdtype(result.dtype, jnp.floating):
        return
    what = f"{result.dtype}{list(result.shape)}" if is_array(result) else shown(result)
    raise PruningError(
        f"expected a loss that returns one float, a scalar, got {what}: return jnp.mean(losses), "
        "and no auxiliary outputs."
    )


def _check_finite(
    measured: Sequence[Leaf], swept: Sequence[float], dense: float, losses: Numbers
) -> None:
    if not math.isfinite(dense):
        raise PruningError(
            f"the loss with nothing pruned is {dense}, expected a finite number: look at the "
            "parameters and the data."
        )

    def problem(leaf: Leaf, row: Numbers) -> Problem | None:
        bad = [f"{s:g}" for s, value in zip(swept, row, strict=True) if not math.isfinite(value)]
        if not bad:
            return None
        return Problem(
            PruningError,
            f"{leaf.name} pruned to {', '.join(bad)} makes the loss not finite: measure lower "
            f"sparsities, or {leave_out(leaf.path)}.",
        )

    raise_problems(map(problem, measured, losses))

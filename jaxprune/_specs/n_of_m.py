"""`n` kept of every `m`: the pattern that sparse tensor cores know."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import InvalidPattern, Problem
from jaxprune._kernels import device, host
from jaxprune._kernels.placement import from_host, on_host
from jaxprune._kernels.ranked import Ranked
from jaxprune._specs.axes import axis_length, with_one_axis
from jaxprune._specs.checks import WORDS, Axis, absent_axis, check_axis, check_count, empty
from jaxprune._specs.protocol import Work, at_sparsity, fit, removed, resolved, select, target
from jaxprune._tree import Leaf, node
from jaxprune._where import leave_out


@node("n")
@dataclass(frozen=True, slots=True)
class NM:
    """Keeps `n` of every `m` consecutive weights; among equal scores the lower index is kept.

    Sparse tensor cores run 2:4 along the input axis of a matrix product, which in Flax's kernels is
    `axis="input"`, not the default. In attention's `[in, heads, features]` kernels it is axis 0.

    Attributes:
        n: Weights kept in each group.
        m: The size of a group.
        axis: The axis along which groups lie: an integer; several, taken as one in their order;
            "input" or "output"; or None for the row-major order of the whole leaf.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> jp.make_mask(jnp.array([4.0, 1.0, 3.0, 2.0]), jp.NM(2, 4))
        Array([ True, False,  True, False], dtype=bool)
    """

    n: Any
    m: int
    axis: Axis | None = -1

    def __post_init__(self) -> None:
        check_count("m", self.m, InvalidPattern)
        if self.axis is not None:
            check_axis("axis", self.axis, "or None for the whole leaf in row-major order")
        # JAX rebuilds a spec with whatever stands for its data: only what a user types is judged.
        typed = isinstance(self.n, int | float | str) or self.n is None
        if not typed:
            return
        check_count("n", self.n, InvalidPattern)
        if not 1 <= self.n <= self.m:
            raise InvalidPattern(
                f"NM({self.n}, {self.m}) keeps {self.n} of every {self.m}: expected 1 <= n <= m. "
                "NM(2, 4) keeps 2 of every 4."
            )


@fit.register
def _(spec: NM, leaf: Leaf) -> Problem | None:
    shape = leaf.value.shape
    if spec.axis is None:
        along, length = "in row-major order", math.prod(shape)
    else:
        assert not isinstance(spec.axis, str)
        problem = absent_axis(leaf, spec.axis)
        if problem:
            return problem
        along, length = f"along axis {spec.axis}", axis_length(shape, spec.axis)
    if math.prod(shape) and length % spec.m:
        return Problem(
            InvalidPattern,
            f"{leaf.name} has {length} entries {along}, not divisible by m={spec.m}: "
            f"{leave_out(leaf.path)}, or choose another axis.",
        )
    return empty(leaf)


@removed.register
def _(spec: NM, shape: tuple[int, ...]) -> int:
    return math.prod(shape) // spec.m * (spec.m - int(spec.n))


@resolved.register
def _(spec: NM, leaf: Leaf, axis_of: Callable[[Axis], Axis]) -> NM:
    del leaf
    return dataclasses.replace(spec, axis=axis_of(spec.axis)) if spec.axis in WORDS else spec


@target.register
def _(spec: NM) -> float:
    return 1 - spec.n / spec.m


@at_sparsity.register
def _(spec: NM, sparsity: Any) -> NM:
    # Rounded down to whole weights; 2^-8 absorbs float error just below a whole number.
    lost = jnp.floor(sparsity * spec.m + 2**-8).astype(jnp.int32)
    return dataclasses.replace(spec, n=jnp.clip(spec.m - lost, spec.n, spec.m))


@select.register
def _(spec: NM, works: Sequence[Work]) -> list[jax.Array]:
    del spec
    return [_mask(work.spec, work.leaf) for work in works]


def _mask(spec: NM, leaf: Ranked) -> Any:
    if spec.axis is None:
        return _along(spec, leaf, (math.prod(leaf.values.shape),), 0)
    assert not isinstance(spec.axis, str)
    return with_one_axis(
        lambda leaf, axis: _along(spec, leaf, leaf.values.shape, axis), leaf, spec.axis
    )


def _along(spec: NM, leaf: Ranked, shape: tuple[int, ...], axis: int) -> Any:
    """The mask of a leaf seen in a shape in which groups lie along an axis."""
    axis %= len(shape)
    view = (*shape[:axis], shape[axis] // spec.m, spec.m, *shape[axis + 1 :])
    here = None if isinstance(spec.n, jax.core.Tracer) else on_host(leaf)
    if here is not None:
        viewed = jax.tree.map(lambda array: array.reshape(view), here)
        kept = host.highest_of_groups(viewed, int(np.asarray(spec.n)), axis + 1)
        return from_host(kept.reshape(leaf.values.shape), leaf.values)
    return device.n_of_m(leaf, jnp.asarray(spec.n, jnp.int32), view=view, axis=axis + 1)

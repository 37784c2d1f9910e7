"""What is gathered of the activations that meet a leaf in one product or convolution.

`squares` sums x_p^2 for each input, [batch, in]; `gram` sums x_p x_p^T for each pair of them,
[batch, in, in]: p runs over the positions at which the leaf is applied, `batch` over its
independent matrices (experts, groups of a convolution), and inputs come in the operand's order.
Everything is summed in float32 at the highest precision, whatever the model computes in. Of an
equation's operands only the shape is read of the one that holds the leaf.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxprune.calibration._correlations import Axis, Correlations, Window, correlations
from jaxprune.tracing import _jax
from jaxprune.tracing._readings import Roles
from jaxprune.tracing._walk import Met

Gather: TypeAlias = Literal["squares", "gram"]

_EXACT = lax.Precision.HIGHEST
_MOST_TAPS = 49  # of a kernel that is measured by correlations,
_LEAST_CHANNELS = 16  # and inputs of each of its taps,
_WORTHWHILE = 0.5  # if they multiply at most as many positions, for each that patches would


class Sums(NamedTuple):
    """What one activation adds up to.

    Attributes:
        sums: [*turns, batch, in] or [*turns, batch, in, in], float32; or the `Correlations` that
            the latter is made of.
        count: How many positions, [*turns, batch], float32: exact up to 2^24, and beyond it as
            good as the sums are.
    """

    sums: Any
    count: Any


def summed(each: Sequence[Sums]) -> Sums:
    """All of them together."""
    return jax.tree.map(lambda *x: sum(x[1:], x[0]), *_of_one_kind(each))


def add(total: Sums, sums: Sums) -> Sums:
    """Both together, in the memory of the former."""
    return _added(*_of_one_kind((total, sums)))


@partial(jax.jit, donate_argnums=0)
def _added(total: Sums, sums: Sums) -> Sums:
    return jax.tree.map(jnp.add, total, sums)


def _of_one_kind(each: Sequence[Sums]) -> Sequence[Sums]:
    """Correlations of one window add up; of several, as of images of two sizes, their Grams do."""
    kinds = {jax.tree.structure(one) for one in each}
    return each if len(kinds) == 1 else [completed(one) for one in each]


@jax.jit
def completed(of: Sums) -> Sums:
    """The sums, with a Gram in place of correlations."""
    return of._replace(sums=of.sums.gram()) if isinstance(of.sums, Correlations) else of


def measure_of(gather: Gather) -> Callable[[Met, Sequence[Any]], Sums]:
    """The function of a `Met` and the operands of its equation that gathers one or the other."""
    measure = squares if gather == "squares" else gram

    def measured(met: Met, operands: Sequence[Any]) -> Sums:
        mesh = jax.typeof(operands[1 - met.operand]).sharding.mesh
        at = [k for k in range(len(operands)) if k != met.operand]

        def sums(*arrays: jax.Array) -> Sums:
            every = dict(zip(at, arrays, strict=True)) | {met.operand: operands[met.operand]}
            ordered = [every[k] for k in range(len(operands))]
            return Sums(measure(met, ordered), positions(met, ordered))

        arrays = [operands[k] for k in at]
        if AxisType.Explicit not in mesh.axis_types:
            return sums(*arrays)
        # How the sums are reached is left to the compiler; then they lie on every device.
        everywhere = NamedSharding(mesh, PartitionSpec())
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
        like = jax.tree.map(lambda _: everywhere, jax.eval_shape(sums, *shapes))
        sums_everywhere: Sums = jax.sharding.auto_axes(sums, out_sharding=like)(*arrays)
        return sums_everywhere

    return measured


def squares(met: Met, operands: Sequence[Any]) -> jax.Array:
    """The sum of squares of each input, [batch, in]."""
    equation, roles, x = _read(met, operands)
    sizes = _jax.group_sizes(equation, operands)
    if met.use == "convolution":
        return _convolved_squares(met, operands)
    if sizes is not None:
        return jnp.einsum("pb,pi->bi", _members(x, sizes), x * x, precision=_EXACT)
    batch, rest, into = _ordered_dims(roles, x)
    x = jnp.transpose(x, (*batch, *rest, *into))
    sums = jnp.sum(x * x, axis=tuple(range(len(batch), len(batch) + len(rest))))
    return sums.reshape(_size(x, range(len(batch))), -1)


def gram(met: Met, operands: Sequence[Any]) -> jax.Array | Correlations:
    """The sum of products of each pair of inputs, [batch, in, in], or what it is made of."""
    equation, roles, x = _read(met, operands)
    sizes = _jax.group_sizes(equation, operands)
    if sizes is not None:
        return jnp.einsum("pb,pi,pj->bij", _members(x, sizes), x, x, precision=_EXACT)
    if met.use == "convolution":
        window = _window(met, operands)
        if window is not None:
            return _correlations(met, operands, window)
        rows = _patches(met, operands)
        return jnp.einsum("bpqi,bpqj->bij", rows, rows, precision=_EXACT)
    batch, rest, into = _ordered_dims(roles, x)
    # Positions and inputs stay as many axes as they are: joined, they could not stay sharded.
    products = lax.dot_general(x, x, ((rest, rest), (batch, batch)), precision=_EXACT)
    count, size = _size(x, batch), _size(x, into)
    left = [k for k in range(x.ndim) if k in into]
    order = [len(batch) + left.index(k) for k in into]
    twice = (*range(len(batch)), *order, *(len(into) + k for k in order))
    return jnp.transpose(products, twice).reshape(count, size, size)


def positions(met: Met, operands: Sequence[Any]) -> jax.Array:
    """At how many positions each matrix is applied, [batch]."""
    equation, roles, x = met.place.equations[-1], met.roles, operands[1 - met.operand]
    assert roles is not None
    sizes = _jax.group_sizes(equation, operands)
    if sizes is not None:
        return jnp.asarray(sizes, jnp.float32)
    if met.use == "convolution":
        numbers = _jax.convolution_options(equation)["dimension_numbers"]
        shape = _jax.shape_of(equation.outvars[0])
        outside = math.prod(shape[k] for k in (numbers.out_spec[0], *numbers.out_spec[2:]))
        return jnp.full(roles.groups, outside, jnp.float32)
    batch, rest, _ = _ordered_dims(roles, x)
    return jnp.full(_size(x, batch), _size(x, rest), jnp.float32)


def inputs(met: Met) -> tuple[int, int]:
    """How many matrices of a turn, and how many inputs each has."""
    roles, shape = met.roles, _jax.shape_of(met.place.equations[-1].invars[met.operand])
    assert roles is not None
    return (
        math.prod(shape[k] for k in roles.batch) * roles.groups,
        math.prod(shape[k] for k in roles.input),
    )


def _read(met: Met, operands: Sequence[Any]) -> tuple[JaxprEqn, Roles, jax.Array]:
    assert met.roles is not None
    x = jnp.asarray(operands[1 - met.operand], jnp.float32)
    return met.place.equations[-1], met.roles, x


def _ordered_dims(roles: Roles, x: Any) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """The dimensions of what a product multiplies a leaf with: batch, positions, inputs."""
    met = (*roles.other_batch, *roles.other_input)
    return roles.other_batch, [k for k in range(x.ndim) if k not in met], roles.other_input


def _size(x: Any, dims: Iterable[int]) -> int:
    return math.prod(x.shape[k] for k in dims)


def _members(x: jax.Array, sizes: jax.Array) -> jax.Array:
    """Which rows of a ragged product belong to which group, [positions, batch], as 0 and 1."""
    ends = jnp.cumsum(sizes)
    at = jnp.arange(x.shape[0])[:, None]
    return ((at < ends) & (at >= ends - sizes)).astype(jnp.float32)


def _convolved_squares(met: Met, operands: Sequence[Any]) -> jax.Array:
    """For each tap and input channel, the squares that the tap meets: no patches are made.

    A tap meets the same places of all images, so these are summed first; and along one axis the
    same places as along the others, so axes are summed one after another.
    """
    x = _images(met, operands)
    # A product with ones: to sum along the first axis takes a CPU several times as long.
    sums = jnp.tensordot(jnp.ones(len(x), x.dtype), x * x, 1, precision=_EXACT)
    every = _reads(met, operands)
    for k, reads in enumerate(every):
        sums = jnp.tensordot(reads, sums, ((1,), (k,)), precision=_EXACT)
    # Now [*taps from the last axis to the first, groups, channels].
    rank = len(every)
    order = [rank + 1 if k == 0 else rank - k for k in _order(met)]
    return jnp.transpose(sums, (rank, *order)).reshape(sums.shape[rank], -1)


def _reads(met: Met, operands: Sequence[Any]) -> list[jax.Array]:
    """For each axis which places of it each tap meets, [taps, length], as 0 and 1."""
    equation = met.place.equations[-1]
    options, outside = _jax.convolution_options(equation), _jax.shape_of(equation.outvars[0])
    numbers = options["dimension_numbers"]
    tables = []
    for k, (low, _) in enumerate(options["padding"]):
        stride = options["window_strides"][k]
        taps = jnp.arange(operands[met.operand].shape[numbers.rhs_spec[2 + k]])
        places = jnp.arange(operands[1 - met.operand].shape[numbers.lhs_spec[2 + k]])
        # How far the kernel has moved when a tap meets a place: by whole strides, or never.
        moved = places * options["lhs_dilation"][k] + low
        moved = moved - taps[:, None] * options["rhs_dilation"][k]
        last = stride * (outside[numbers.out_spec[2 + k]] - 1)
        meets = (moved % stride == 0) & (moved >= 0) & (moved <= last)
        tables.append(meets.astype(jnp.float32))
    return tables


def _window(met: Met, operands: Sequence[Any]) -> Window | None:
    """The taps of a convolution that is measured by correlations; None if by patches.

    Patches are as good where the kernel leaves positions out, and where there are few channels:
    then their Gram is small, and to read the images costs more than to multiply them.
    """
    options = _jax.convolution_options(met.place.equations[-1])
    numbers = options["dimension_numbers"]
    kernel, image = operands[met.operand].shape, operands[1 - met.operand].shape
    _, into, *order = numbers.rhs_spec
    taps = math.prod(kernel[k] for k in order)
    moves = {*options["window_strides"], *options["lhs_dilation"]}
    if moves != {1} or not 1 < taps <= _MOST_TAPS or kernel[into] < _LEAST_CHANNELS:
        return None
    result = _jax.shape_of(met.place.equations[-1].outvars[0])
    window = Window(
        tuple(
            Axis(image[lhs], kernel[rhs], step, low, result[out])
            for lhs, rhs, out, step, (low, _) in zip(
                numbers.lhs_spec[2:],
                order,
                numbers.out_spec[2:],
                options["rhs_dilation"],
                options["padding"],
                strict=True,
            )
        )
    )
    return window if window.work < _WORTHWHILE else None


def _correlations(met: Met, operands: Sequence[Any], window: Window) -> Correlations:
    x = jnp.moveaxis(_images(met, operands), -2, 0)
    return correlations(x, window, _order(met))


def _images(met: Met, operands: Sequence[Any]) -> jax.Array:
    """What a convolution reads, [batch, *axes, groups, channels]."""
    equation, roles, x = _read(met, operands)
    batch, feature, *axes = _jax.convolution_options(equation)["dimension_numbers"].lhs_spec
    x = jnp.transpose(x, (batch, *axes, feature))
    return x.reshape(*x.shape[:-1], roles.groups, -1)


def _order(met: Met) -> tuple[int, ...]:
    """Which of [channels, *taps] the kernel's inputs are, one after another."""
    assert met.roles is not None
    options = _jax.convolution_options(met.place.equations[-1])
    _, *order = options["dimension_numbers"].rhs_spec
    return tuple(order.index(k) for k in met.roles.input)


def _patches(met: Met, operands: Sequence[Any]) -> jax.Array:
    """What a convolution multiplies its kernel with, [groups, batch, positions, in]."""
    equation, x = met.place.equations[-1], _images(met, operands)
    options, kernel = _jax.convolution_options(equation), operands[met.operand].shape
    numbers, result = options["dimension_numbers"], _jax.shape_of(equation.outvars[0])
    around = [
        (low, high, apart - 1)
        for (low, high), apart in zip(options["padding"], options["lhs_dilation"], strict=True)
    ]
    still = (0, 0, 0)
    x = lax.pad(x, jnp.float32(0), (still, *around, still, still))
    rank = len(around)
    for k in range(rank):
        taps, outputs = kernel[numbers.rhs_spec[2 + k]], result[numbers.out_spec[2 + k]]
        at = np.arange(outputs)[:, None] * options["window_strides"][k]
        at = at + np.arange(taps) * options["rhs_dilation"][k]
        axis = 1 + 2 * k
        x = jnp.take(x, at, axis, mode="clip")
    # Now [batch, outputs, taps, outputs, taps, ..., groups, channels].
    channels, groups = x.ndim - 1, x.ndim - 2
    inputs = [channels if k == 0 else 2 * k for k in _order(met)]
    x = jnp.transpose(x, (groups, 0, *range(1, 2 * rank, 2), *inputs))
    return x.reshape(x.shape[0], x.shape[1], -1, math.prod(x.shape[2 + rank :]))

"""Everything that JAX does not promise: names of primitives, their parameters, source lines.

Tried on JAX 0.7.2, 0.10.2 and 0.12.0. Where they differ:

- `scan` counts its constants and its carry in `num_consts` and `num_carry`; since 0.12 in `ft_in`,
  a tuple of the three groups of operands.
- Inner jaxprs are closed (`ClosedJaxpr`) in most parameters; since 0.12 all are open.
- `jnp.stack` and `jnp.tile` are primitives since 0.10, `jnp.unstack` since 0.12; before, they were
  composed of others.
- `composite` calls its jaxpr `jaxpr`; since 0.12 `call_jaxpr`.
- Parameters to bind a primitive with come apart from its functions; since 0.10 in one dictionary.
- The frames of an equation run back through the `jit` that traced it; since 0.12 they end there.
"""

import functools
import importlib.util
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jaxprune.tracing import _moves as m
from jaxprune.tracing._readings import (
    AnyJaxpr,
    Branches,
    Call,
    Contraction,
    Elementwise,
    Indexed,
    Joined,
    Moved,
    Passed,
    Reading,
    Roles,
    Scan,
    Unknown,
    While,
)

# fmt: off
# Results are the operands: what moves to another device, gets a name or waits for another.
PASSED = (
    "copy", "copy_p", "device_put", "layout_constraint", "mesh_cast", "name",
    "optimization_barrier", "pcast", "pvary", "reduce_precision", "reshard",
    "sharding_constraint", "stop_gradient",
)

# Each entry of the result comes of one entry of each operand.
ELEMENTWISE = (
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "cbrt", "ceil", "clamp", "clz", "complex", "conj", "cos", "cosh", "digamma", "div", "eq",
    "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac",
    "imag", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max",
    "min", "mul", "mulhi", "ne", "neg", "nextafter", "not", "or", "population_count", "pow",
    "real", "rem", "round", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic",
    "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor",
)

# Entries of one operand are put among those of another, or added to them.
_PLACED = ("dynamic_update_slice", "scatter", "scatter-add")

# Primitives that run one jaxpr on their operands.
_CALLS = (
    "checkpoint", "closed_call", "composite", "core_call", "core_closed_call", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2",
)
# fmt: on

# The operands that these multiply, where the others are single numbers.
_SCALES = {"mul": (0, 1), "div": (0,), "neg": (0,)}


def read(equation: JaxprEqn) -> Reading:
    """What the equation does; `Unknown` where its primitive is not one of those known here."""
    rule = _RULES.get(equation.primitive.name)
    return Unknown() if rule is None else rule(equation)


def is_known(variable: Any) -> bool:
    """Whether a variable of an equation is a literal number."""
    return isinstance(variable, Literal)


def opened(jaxpr: AnyJaxpr) -> Jaxpr:
    """The jaxpr itself, without the values of its constants."""
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def constants(jaxpr: AnyJaxpr) -> Sequence[Any]:
    """The values of the jaxpr's constants."""
    return getattr(jaxpr, "consts", ())


def run(equation: JaxprEqn, operands: Sequence[Any], **changed: Any) -> Sequence[Any]:
    """The results of an equation for these operands, some of its parameters changed."""
    primitive = equation.primitive
    bound = primitive.get_bind_params(dict(equation.params) | changed)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with equation.ctx.manager:
        out = primitive.bind(*functions, *operands, **params)
    return out if primitive.multiple_results else [out]


def part_of(
    jaxpr: Jaxpr, inputs: Sequence[Var], outputs: Sequence[Any], equations: Sequence[JaxprEqn]
) -> Jaxpr:
    """Some equations of a jaxpr, as a jaxpr of their own."""
    return Jaxpr((), list(inputs), list(outputs), list(equations), debug_info=jaxpr.debug_info)


def convolution_options(equation: JaxprEqn) -> dict[str, Any]:
    """The arguments of `lax.conv_general_dilated` that make this convolution."""
    names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
    return {name: equation.params[name] for name in names}


def group_sizes(equation: JaxprEqn, operands: Sequence[Any]) -> Any:
    """How many rows each group of a ragged product has; None for any other equation."""
    return operands[2] if equation.primitive.name == "ragged_dot_general" else None


def live(jaxpr: Jaxpr, needed: Sequence[bool]) -> tuple[list[bool], set[Var]]:
    """Which equations, and which variables, the needed results depend on.

    Args:
        jaxpr: The jaxpr.
        needed: Which of its results anybody reads.
    """
    used = {
        var
        for var, need in zip(jaxpr.outvars, needed, strict=True)
        if need and not isinstance(var, Literal)
    }
    alive = [False] * len(jaxpr.eqns)
    for k in range(len(jaxpr.eqns) - 1, -1, -1):
        equation = jaxpr.eqns[k]
        if equation.effects or any(var in used for var in equation.outvars):
            alive[k] = True
            used.update(var for var in equation.invars if not isinstance(var, Literal))
    return alive, used


def shape_of(variable: Any) -> tuple[int, ...]:
    """The shape of a variable of an equation."""
    return _ints(variable.aval.shape)


# --- where in the source ------------------------------------------------------------------------

# Frames of these packages are not the model's: the model's line is the one that called them.
_FRAMEWORKS = ("jax", "jaxprune", "flax", "equinox", "haiku", "penzai", "keras", "jaxtyping")


def source(equations: Sequence[JaxprEqn]) -> str:
    """The model's `file:line` of the last of these equations, each of which holds the next.

    The line is the innermost one outside of Python, JAX and the frameworks; where all are inside,
    the innermost of a framework. A jaxpr that JAX had cached remembers where it was traced first:
    so only the frames of the equation's own trace are read, and if there is no line of the model
    among them, those of the equation that holds it.
    """
    beyond_jax = []
    for equation in reversed(equations):
        for file, line in _own_frames(equation):
            if _is_models(file):
                return f"{file}:{line}"
            if not file.startswith(("<", _folder("jax"))):
                beyond_jax.append(f"{file}:{line}")
    return beyond_jax[0] if beyond_jax else ""


@functools.cache
def _is_models(file: str) -> bool:
    folders = [folder for name in _FRAMEWORKS if (folder := _folder(name))]
    is_python = file.startswith(os.path.dirname(os.__file__)) and "-packages" not in file
    return not (is_python or file.startswith(("<", *folders)))


@functools.cache
def _folder(package: str) -> str:
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return os.path.join(next(iter(locations)), "") if locations else ""


def _own_frames(equation: JaxprEqn) -> list[tuple[str, int]]:
    """The frames of the equation, innermost first, up to where the trace of its jaxpr began."""
    traceback = equation.source_info.traceback
    own: list[tuple[str, int]] = []
    frames: Iterable[Any] = () if traceback is None else traceback.frames
    for frame in frames:
        if frame.function_name.startswith("trace_to_jaxpr"):
            break
        own.append((frame.file_name, frame.line_num))
    return own


# --- primitives ---------------------------------------------------------------------------------


def _ints(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _moved(*moves: m.Rearrangement) -> Moved:
    return Moved((moves,))


def _convert(equation: JaxprEqn) -> Reading:
    of: Any = equation.invars[0].aval
    # A number that is cut to an integer is another number: quantization, not another precision.
    is_cut = jnp.issubdtype(of.dtype, jnp.inexact) and not jnp.issubdtype(
        equation.params["new_dtype"], jnp.inexact
    )
    return Elementwise() if is_cut else Passed()


def _transpose(equation: JaxprEqn) -> Reading:
    return _moved(m.Transpose(_ints(equation.params["permutation"])))


def _reshape(equation: JaxprEqn) -> Reading:
    reshape = m.Reshape(_ints(equation.params["new_sizes"]))
    order = equation.params.get("dimensions")
    return _moved(reshape) if order is None else _moved(m.Transpose(_ints(order)), reshape)


def _squeeze(equation: JaxprEqn) -> Reading:
    return _moved(m.Squeeze(_ints(equation.params["dimensions"])))


def _broadcast(equation: JaxprEqn) -> Reading:
    axes = _ints(equation.params["broadcast_dimensions"])
    return _moved(m.Broadcast(shape_of(equation.outvars[0]), axes))


def _slice(equation: JaxprEqn) -> Reading:
    starts, limits = (_ints(equation.params[k]) for k in ("start_indices", "limit_indices"))
    return _moved(m.Slice(starts, limits, _ints(equation.params["strides"] or [1] * len(starts))))


def _pad(equation: JaxprEqn) -> Reading:
    config = equation.params["padding_config"]
    return _moved(m.Pad(tuple((int(b), int(a), int(i)) for b, a, i in config)))


def _reverse(equation: JaxprEqn) -> Reading:
    return _moved(m.Reverse(_ints(equation.params["dimensions"])))


def _tile(equation: JaxprEqn) -> Reading:
    return _moved(m.Tile(_ints(equation.params["reps"])))


def _split(equation: JaxprEqn) -> Reading:
    shape, axis = shape_of(equation.invars[0]), int(equation.params["axis"])
    ends = np.cumsum([0, *_ints(equation.params["sizes"])])

    def piece(start: int, limit: int) -> tuple[m.Rearrangement, ...]:
        starts = [start if k == axis else 0 for k in range(len(shape))]
        limits = [limit if k == axis else size for k, size in enumerate(shape)]
        return (m.Slice(tuple(starts), tuple(limits), (1,) * len(shape)),)

    return Moved(tuple(map(piece, ends[:-1].tolist(), ends[1:].tolist())))


def _unstack(equation: JaxprEqn) -> Reading:
    shape, axis = shape_of(equation.invars[0]), int(equation.params["axis"])

    def one(k: int) -> tuple[m.Rearrangement, ...]:
        starts = [k if d == axis else 0 for d in range(len(shape))]
        limits = [k + 1 if d == axis else size for d, size in enumerate(shape)]
        return m.Slice(tuple(starts), tuple(limits), (1,) * len(shape)), m.Squeeze((axis,))

    return Moved(tuple(map(one, range(shape[axis]))))


def _concatenate(equation: JaxprEqn) -> Reading:
    axis = int(equation.params["dimension"])
    sizes = [shape_of(operand)[axis] for operand in equation.invars]
    rank, total, starts = len(shape_of(equation.invars[0])), sum(sizes), np.cumsum([0, *sizes])
    pads = [_pad_along(axis, rank, s, total - s - n) for s, n in zip(starts, sizes, strict=False)]
    return Joined(tuple((pad,) for pad in pads))


def _stack(equation: JaxprEqn) -> Reading:
    axis, shape = int(equation.params["axis"]), shape_of(equation.outvars[0])
    one = tuple(1 if k == axis else size for k, size in enumerate(shape))
    kept = tuple(k for k in range(len(shape)) if k != axis)
    pads = [_pad_along(axis, len(shape), k, shape[axis] - k - 1) for k in range(shape[axis])]
    return Joined(tuple((m.Broadcast(one, kept), pad) for pad in pads))


def _pad_along(axis: int, rank: int, before: int, after: int) -> m.Pad:
    config = [(int(before), int(after), 0) if k == axis else (0, 0, 0) for k in range(rank)]
    return m.Pad(tuple(config))


def _dynamic_slice(equation: JaxprEqn) -> Reading:
    shape, sizes = shape_of(equation.invars[0]), _ints(equation.params["slice_sizes"])
    indices: Sequence[Any] = equation.invars[1 : 1 + len(shape)]
    moving = [k for k, size in enumerate(sizes) if size < shape[k]]
    if all(is_known(indices[k]) for k in moving):
        starts = [
            # As XLA does: a slice that would reach beyond the end begins earlier.
            min(max(int(indices[k].val), 0), shape[k] - sizes[k]) if k in moving else 0
            for k in range(len(shape))
        ]
        limits = [start + size for start, size in zip(starts, sizes, strict=True)]
        return _moved(m.Slice(tuple(starts), tuple(limits), (1,) * len(shape)))
    if any(sizes[k] > 1 for k in moving):
        return Indexed(None, behind=tuple(range(len(shape))))
    return Indexed(tuple((k, (1 + k, None)) for k in moving))


def _gather(equation: JaxprEqn) -> Reading:
    numbers, shape = equation.params["dimension_numbers"], shape_of(equation.invars[0])
    sizes, pointed = _ints(equation.params["slice_sizes"]), _ints(numbers.start_index_map)
    dropped = _ints(numbers.collapsed_slice_dims)
    is_whole = all(sizes[k] == (1 if k in pointed else size) for k, size in enumerate(shape))
    if len(shape_of(equation.invars[1])) == 1 and is_whole:
        picked = tuple((k, (1, place)) for place, k in enumerate(pointed))
        return Indexed(picked, (m.Squeeze(dropped),))
    if not is_whole or pointed != dropped or len(pointed) > 1 or numbers.operand_batching_dims:
        return Indexed(None)
    # One axis is looked up, and lies behind the dimensions of the indices. The others keep their
    # order.
    kept = iter([k for k in range(len(shape)) if k not in dropped])
    offsets = _ints(numbers.offset_dims)
    rank = len(shape_of(equation.outvars[0]))
    return Indexed(
        None, behind=tuple(next(kept) if k in offsets else pointed[0] for k in range(rank))
    )


def _dot(equation: JaxprEqn) -> Reading:
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left_shape, right_shape = map(shape_of, equation.invars[:2])
    roles = (
        _roles(left_shape, (left_batch, right_batch), (left, right)),
        _roles(right_shape, (right_batch, left_batch), (right, left)),
    )
    summed = math.prod(left_shape[k] for k in left)
    return Contraction("product", roles, math.prod(shape_of(equation.outvars[0])) * summed)


def _roles(
    shape: Sequence[int],
    batch: tuple[Sequence[int], Sequence[int]],
    summed: tuple[Sequence[int], Sequence[int]],
) -> Roles:
    """The roles of an operand's dimensions: its own, and those of the other that they meet."""
    kept = tuple(k for k in range(len(shape)) if k not in (*batch[0], *summed[0]))
    pairs = sorted(zip(_ints(summed[0]), _ints(summed[1]), strict=True))
    own, other = (tuple(pair[k] for pair in pairs) for k in range(2))
    return Roles(_ints(batch[0]), kept, own, other_batch=_ints(batch[1]), other_input=other)


def _ragged_dot(equation: JaxprEqn) -> Reading:
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (left, right), (left_batch, right_batch) = numbers.dot_dimension_numbers
    left_shape, right_shape = map(shape_of, equation.invars[:2])
    batch = (*right_batch, *numbers.rhs_group_dimensions)
    roles = _roles(right_shape, (batch, left_batch), (right, left))
    # Each row of the left operand meets the matrix of one group only. What this means for a leaf on
    # the left is not read.
    total = math.prod(left_shape) * math.prod(right_shape[k] for k in roles.output)
    return Contraction("product", (None, roles), total)


def _convolution(equation: JaxprEqn) -> Reading:
    params = equation.params
    numbers, shape = params["dimension_numbers"], shape_of(equation.invars[1])
    out_dim, *rest = _ints(numbers.rhs_spec)
    roles = Roles((), (out_dim,), tuple(sorted(rest)), int(params["feature_group_count"]))
    out_shape = shape_of(equation.outvars[0])
    per_position = math.prod(shape[k] for k in rest[:1])
    outside = math.prod(out_shape[k] for k in numbers.out_spec[:2])
    pairs = [
        _taps(out_shape[o], shape[k], params, d)
        for d, (o, k) in enumerate(zip(numbers.out_spec[2:], rest[1:], strict=True))
    ]
    # An image that is a leaf, or a kernel that sees a part of the batch, is not read.
    read = roles if params["batch_group_count"] == 1 else None
    return Contraction("convolution", (None, read), outside * per_position * math.prod(pairs))


def _taps(positions: int, taps: int, params: dict[str, Any], d: int) -> int:
    """How many pairs of an output position and a tap meet no hole between dilated inputs."""
    dilation = int(params["lhs_dilation"][d])
    if dilation == 1:
        return positions * taps
    first = int(params["padding"][d][0])
    at = np.arange(positions)[:, None] * int(params["window_strides"][d])
    at = at + np.arange(taps) * int(params["rhs_dilation"][d]) - first
    return int(np.count_nonzero(at % dilation == 0))


def _call(equation: JaxprEqn) -> Reading:
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        jaxpr = equation.params.get(name)
        if jaxpr is not None and len(opened(jaxpr).invars) == len(equation.invars):
            return Call(jaxpr)
    return Unknown()


def _scan(equation: JaxprEqn) -> Reading:
    params = equation.params
    if "num_consts" in params:
        constants, carry = params["num_consts"], params["num_carry"]
    else:
        constants, carry = (len(list(group)) for group in list(params["ft_in"].unpack())[:2])
    return Scan(params["jaxpr"], constants, carry, int(params["length"]), params["reverse"])


def _while(equation: JaxprEqn) -> Reading:
    params = equation.params
    return While(
        params["cond_jaxpr"],
        params["body_jaxpr"],
        params["cond_nconsts"],
        params["body_nconsts"],
    )


def _branches(equation: JaxprEqn) -> Reading:
    return Branches(tuple(equation.params["branches"]))


def _always(reading: Reading) -> Callable[[JaxprEqn], Reading]:
    return lambda equation: reading


_RULES: dict[str, Callable[[JaxprEqn], Reading]] = {
    **dict.fromkeys(PASSED, _always(Passed())),
    **{name: _always(Elementwise(_SCALES.get(name, ()))) for name in ELEMENTWISE},
    **dict.fromkeys(_PLACED, _always(Elementwise(is_aligned=False))),
    **dict.fromkeys(_CALLS, _call),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "cond": _branches,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "pad": _pad,
    "ragged_dot_general": _ragged_dot,
    "reshape": _reshape,
    "rev": _reverse,
    "scan": _scan,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _unstack,
    "while": _while,
}

"""The second half of `_jax`, where JAX's names of primitives and parameters may be: their axes.

Tried on JAX 0.7.2, 0.10.2 and 0.12.0.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from jaxprune.tracing import _jax
from jaxprune.tracing import _layouts as at
from jaxprune.tracing._jax import shape_of
from jaxprune.tracing._readings import (
    AnyJaxpr,
    Branches,
    Call,
    Contraction,
    Scan,
    Unknown,
    While,
)

Reading: TypeAlias = at.Layout | Call | Scan | While | Branches | Unknown


class ForwardDerivative(NamedTuple):
    """The derivative of a call along a direction, as a program.

    Attributes:
        program: From the operands, but for the first ones, and the directions of those that move,
            to the results and the directions of those that do.
        fixed: How many operands, from the first on, it does not take.
        moving: Which of the others have a direction: those that hold floats.
        moved: Which results have one.
    """

    program: AnyJaxpr
    fixed: int
    moving: tuple[bool, ...]
    moved: tuple[bool, ...]


_OPENED = Call | Scan | While | Branches

# Where these elementwise operations are zero; the others are not for certain.
# fmt: off
_ZERO: dict[str, at.Zero] = {
    **dict.fromkeys(("add", "sub", "add_any", "or", "xor"), "all"),
    **dict.fromkeys(("mul", "and"), "any"),
    **dict.fromkeys((
        "abs", "asin", "asinh", "atan", "atanh", "cbrt", "ceil", "conj", "div", "erf", "erf_inv",
        "expm1", "floor", "imag", "log1p", "neg", "real", "rem", "round", "sign", "sin", "sinh",
        "sqrt", "square", "tan", "tanh",
    ), "first"),
    "select_n": "cases",
    "max": "max",
    "min": "min",
    "clamp": "clamp",
}
# fmt: on
# The operand of these at whose zeros they are not finite.
_POLE = {"div": 1, "rem": 1, **dict.fromkeys(("digamma", "lgamma", "log", "rsqrt"), 0)}
_REDUCED = (
    "argmax",
    "argmin",
    "reduce_and",
    "reduce_max",
    "reduce_min",
    "reduce_or",
    "reduce_prod",
    "reduce_xor",
)
_CUMULATED = ("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum")
_SCATTERED = ("scatter", "scatter-add", "scatter-max", "scatter-min", "scatter-mul", "scatter-sub")
_WINDOWED = ("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum")


def read(equation: JaxprEqn) -> Reading:
    """What the equation does with axes; `Unknown` where its primitive is not one known here."""
    name = equation.primitive.name
    if name in _RULES:
        return _RULES[name](equation)
    if name in _jax.PASSED:
        return at.Same()
    if name in _jax.ELEMENTWISE:
        return at.Aligned(_ZERO.get(name, "never"), _POLE.get(name))
    opened = _jax.read(equation)
    return opened if isinstance(opened, _OPENED) else Unknown()


def reads(primitive: str, reading: Callable[[JaxprEqn], Any]) -> None:
    """Makes a primitive of yours known to `jaxprune.dependencies`.

    Args:
        primitive: The name of the primitive.
        reading: From an equation, what it does with axes: one of `jaxprune.extend.layouts`, such as
            `Aligned()` for what is elementwise; or an object of a class of yours, for which
            `couple` is registered, and where they are needed `zeros` and `run_small`.

    Examples:
        >>> from jaxprune import extend
        >>> extend.reads("my_activation", lambda equation: extend.layouts.Aligned("first"))
    """
    _RULES[primitive] = reading


def run_resized(
    equation: JaxprEqn,
    operands: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    groups: int = 1,
) -> Sequence[Any]:
    """The results of an equation for operands of other sizes.

    Args:
        equation: The equation.
        operands: Its operands.
        shapes: The shapes that its results are to have.
        groups: Of a convolution in groups, how many are left.
    """
    name, (shape, *_) = equation.primitive.name, shapes
    sizes = _whole_sizes(equation, operands)
    changed: dict[str, Any]
    match name:
        case "broadcast_in_dim":
            changed = {"shape": shape}
        case "reshape":
            changed = {"new_sizes": shape}
        case "tile":
            changed = {"reps": tuple(o // max(n, 1) for o, n in zip(shape, operands[0].shape))}  # noqa: B905
        case "gather" | "dynamic_slice":
            changed = {"slice_sizes": sizes}
        case "conv_general_dilated":
            changed = {"feature_group_count": groups}
        case _:
            changed = {}
    return _jax.run(equation, operands, **changed)


def pad(equation: JaxprEqn, operands: Sequence[Any], config: Any) -> Sequence[Any]:
    """The results of a padding with another configuration."""
    return _jax.run(equation, operands, padding_config=config)


def unroll(equation: JaxprEqn) -> Any:
    """How many turns of a scan are one step of its loop."""
    return equation.params["unroll"]


def remat_options(equation: JaxprEqn) -> dict[str, Any] | None:
    """The arguments of `jax.checkpoint` that make this call; None for any other equation."""
    if equation.primitive.name not in ("checkpoint", "remat", "remat2"):
        return None
    return {name: equation.params[name] for name in ("policy", "prevent_cse")}


def forward_derivative(equation: JaxprEqn) -> ForwardDerivative | None:
    """The forward derivative that a call has of its own; None for any other equation."""
    params = equation.params
    if equation.primitive.name != "custom_jvp_call" or params["symbolic_zeros"]:
        return None
    fixed = int(params["num_consts"])
    types: list[Any] = [variable.aval for variable in equation.invars[fixed:]]
    moving = [jnp.issubdtype(aval.dtype, jnp.inexact) for aval in types]
    derivative = params["jvp_jaxpr_fun"].call_wrapped(*(not moves for moves in moving))
    jaxpr, constants, zeros = derivative
    return ForwardDerivative(
        ClosedJaxpr(jaxpr, constants), fixed, tuple(moving), tuple(not zero for zero in zeros)
    )


def has_backward_derivative(equation: JaxprEqn) -> bool:
    """Whether a call has a backward derivative of its own."""
    return equation.primitive.name.startswith("custom_vjp_call")


def is_sum(equation: JaxprEqn) -> bool:
    """Whether an equation adds two arrays, entry by entry."""
    return equation.primitive.name in ("add", "add_any")


def effects(jaxpr: AnyJaxpr) -> list[str]:
    """The side effects of a program, each with its line: printing, callbacks, what is written."""
    return [
        " at ".join(filter(None, (equation.primitive.name, _jax.source([equation]))))
        for equation in _jax.opened(jaxpr).eqns
        if equation.effects
    ]


def _whole_sizes(equation: JaxprEqn, operands: Sequence[Any]) -> tuple[int, ...]:
    """The sizes of a slice, where those that were whole are whole again."""
    sizes = equation.params.get("slice_sizes", ())
    before = shape_of(equation.invars[0])
    return tuple(
        operands[0].shape[k] if size == before[k] else size for k, size in enumerate(sizes)
    )


# --- primitives ---------------------------------------------------------------------------------


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _bitcast(equation: JaxprEqn) -> Reading:
    same = shape_of(equation.invars[0]) == shape_of(equation.outvars[0])
    return at.Aligned() if same else Unknown()


def _integer_power(equation: JaxprEqn) -> Reading:
    return _of_exponent(equation.params["y"])


def _power(equation: JaxprEqn) -> Reading:
    exponent: Any = equation.invars[1]
    known = _jax.is_known(exponent) and jnp.size(exponent.val) == 1
    return _of_exponent(float(exponent.val)) if known else at.Aligned()


def _of_exponent(exponent: float) -> Reading:
    if exponent == 0:
        return at.Aligned()
    return at.Aligned("first") if exponent > 0 else at.Aligned(pole=0)


def _transpose(equation: JaxprEqn) -> Reading:
    return at.Transposed(_ints(equation.params["permutation"]))


def _reshape(equation: JaxprEqn) -> Reading:
    return Unknown() if equation.params.get("dimensions") is not None else at.Reshaped()


def _broadcast(equation: JaxprEqn) -> Reading:
    return at.Broadcast(_ints(equation.params["broadcast_dimensions"]))


def _squeeze(equation: JaxprEqn) -> Reading:
    return at.Squeezed(_ints(equation.params["dimensions"]))


def _slice(equation: JaxprEqn) -> Reading:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    return at.Sliced((tuple(zip(_ints(starts), _ints(limits), _ints(strides), strict=True)),))


def _split(equation: JaxprEqn) -> Reading:
    shape, axis, start, parts = shape_of(equation.invars[0]), equation.params["axis"], 0, []
    for size in _ints(equation.params["sizes"]):
        whole = [(0, n, 1) for n in shape]
        whole[axis] = (start, start + size, 1)
        parts.append(tuple(whole))
        start += size
    return at.Sliced(tuple(parts))


def _pad(equation: JaxprEqn) -> Reading:
    return at.Padded(
        tuple((int(b), int(a), int(i)) for b, a, i in equation.params["padding_config"])
    )


def _concatenate(equation: JaxprEqn) -> Reading:
    return at.Concatenated(int(equation.params["dimension"]))


def _stack(equation: JaxprEqn) -> Reading:
    return at.Stacked(int(equation.params["axis"]))


def _tile(equation: JaxprEqn) -> Reading:
    return at.Tiled(_ints(equation.params["reps"]))


def _sum(equation: JaxprEqn) -> Reading:
    return at.Reduced(_ints(equation.params["axes"]), is_sum=True)


def _reduced(equation: JaxprEqn) -> Reading:
    return at.Reduced(_ints(equation.params["axes"]), is_sum=False)


def _cumulated(equation: JaxprEqn) -> Reading:
    return at.Mixed((int(equation.params["axis"]),), equation.primitive.name != "cumlogsumexp")


def _sort(equation: JaxprEqn) -> Reading:
    return at.Mixed((int(equation.params["dimension"]),), keeps_zeros=True)


def _top(equation: JaxprEqn) -> Reading:
    last = len(shape_of(equation.invars[0])) - 1
    return at.Mixed((int(equation.params.get("axis", last)) % (last + 1),), keeps_zeros=True)


def _reverse(equation: JaxprEqn) -> Reading:
    return at.Mixed(_ints(equation.params["dimensions"]), keeps_zeros=True)


def _window(equation: JaxprEqn) -> Reading:
    params = equation.params
    each = zip(
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params["base_dilation"],
        strict=True,
    )
    untouched = [w == s == d == 1 and tuple(p) == (0, 0) for w, s, p, d in each]
    axes = tuple(k for k, is_whole in enumerate(untouched) if not is_whole)
    return at.Mixed(axes, equation.primitive.name != "reduce_window", is_window=True)


def _dot(equation: JaxprEqn) -> Reading:
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    batch = tuple(zip(_ints(left_batch), _ints(right_batch), strict=True))
    summed = tuple(zip(_ints(left), _ints(right), strict=True))
    ranks = (len(shape_of(operand)) for operand in equation.invars[:2])
    free = [
        tuple(k for k in range(rank) if all(k != pair[side] for pair in (*batch, *summed)))
        for side, rank in enumerate(ranks)
    ]
    return at.Product(batch, summed, *free)


def _ragged_dot(equation: JaxprEqn) -> Reading:
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (left, right), batches = numbers.dot_dimension_numbers
    groups = _ints(numbers.rhs_group_dimensions)
    rows = _ints(numbers.lhs_ragged_dimensions)
    if any(batches) or len(left) != 1 or len(groups) != 1 or {*rows, *_ints(left)} != {0, 1}:
        return Unknown()
    if rows != (0,):
        return Unknown()
    (rest,) = {0, 1, 2} - {groups[0], int(right[0])}
    return at.RaggedProduct((int(left[0]), int(right[0])), groups[0], rest)


def _convolution(equation: JaxprEqn) -> Reading:
    numbers, params = equation.params["dimension_numbers"], equation.params
    if params["batch_group_count"] != 1:
        return Unknown()
    # Multiply-adds are those of `_jax`, less what the channels and the batch multiply them by.
    reading = _jax.read(equation)
    assert isinstance(reading, Contraction)
    result, kernel = shape_of(equation.outvars[0]), shape_of(equation.invars[1])
    outside = (
        result[numbers.out_spec[0]] * result[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    )
    return at.Convolved(
        _ints(numbers.lhs_spec),
        _ints(numbers.rhs_spec),
        _ints(numbers.out_spec),
        int(params["feature_group_count"]),
        reading.multiply_adds // max(outside, 1),
    )


def _gather(equation: JaxprEqn) -> Reading:
    numbers, before = equation.params["dimension_numbers"], shape_of(equation.invars[0])
    sizes = _ints(equation.params["slice_sizes"])
    dropped = _ints((*numbers.collapsed_slice_dims, *numbers.operand_batching_dims))
    kept = iter(k for k in range(len(before)) if k not in dropped)
    behind = iter(range(len(shape_of(equation.invars[1])) - 1))
    whole: list[int | None] = []
    indices: list[int | None] = []
    for k in range(len(shape_of(equation.outvars[0]))):
        is_offset = k in numbers.offset_dims
        axis = next(kept) if is_offset else None
        # An index along an axis that comes whole can only be 0.
        whole.append(axis if axis is not None and sizes[axis] == before[axis] else None)
        indices.append(None if is_offset else next(behind))
    return at.LookedUp(tuple(whole), tuple(indices))


def _scatter(equation: JaxprEqn) -> Reading:
    numbers = equation.params["dimension_numbers"]
    before, updates = (shape_of(equation.invars[k]) for k in (0, 2))
    dropped = _ints((*numbers.inserted_window_dims, *numbers.operand_batching_dims))
    kept = iter(k for k in range(len(before)) if k not in dropped)
    axes = [next(kept) if k in numbers.update_window_dims else None for k in range(len(updates))]
    pairs = zip(axes, updates, strict=True)
    return at.Scattered(
        tuple(k if k is not None and before[k] == size else None for k, size in pairs)
    )


def _always(reading: Reading) -> Callable[[JaxprEqn], Reading]:
    return lambda equation: reading


_RULES: dict[str, Callable[[JaxprEqn], Reading]] = {
    **dict.fromkeys(_REDUCED, _reduced),
    **dict.fromkeys(_CUMULATED, _cumulated),
    **dict.fromkeys(_SCATTERED, _scatter),
    **dict.fromkeys(_WINDOWED, _window),
    **dict.fromkeys(("iota", "random_bits", "empty"), _always(at.Generated())),
    "bitcast_convert_type": _bitcast,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _always(at.Same()),
    "dot_general": _dot,
    "dynamic_slice": _always(at.Window()),
    "dynamic_update_slice": _always(at.Placed()),
    "gather": _gather,
    "integer_pow": _integer_power,
    "pad": _pad,
    "pow": _power,
    "ragged_dot_general": _ragged_dot,
    "reduce_sum": _sum,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "sort": _sort,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "top_k": _top,
    "transpose": _transpose,
}

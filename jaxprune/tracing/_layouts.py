"""What an equation of a jaxpr does with the axes of its operands.

It is said in terms that no version of JAX changes.

`_jax_layouts.read` translates an equation into one of these, or into one of `_readings` that runs
other jaxprs. `_readings` says what is computed; these say along which axes.
"""

import dataclasses
from typing import Literal, TypeAlias

# Where the result of an elementwise operation is zero, given where its operands are: where all are,
# where one of them is, where the first is, where all but the first are, or nowhere for certain.
Zero: TypeAlias = Literal["all", "any", "first", "cases", "max", "min", "clamp", "never"]


@dataclasses.dataclass(frozen=True, slots=True)
class Same:
    """Result k has the axes of operand k, and its zeros."""


@dataclasses.dataclass(frozen=True, slots=True)
class Aligned:
    """All operands and results have one layout, up to broadcast sizes of 1.

    Attributes:
        zero: Where the results are zero.
        pole: The operand that makes the results infinite or NaN where it is zero, as a divisor
            does; None if none does.
    """

    zero: Zero = "never"
    pole: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Generated:
    """The result depends on no operand's axes: a range, random numbers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transposed:
    """Dimension k of the result is dimension `order[k]` of the operand."""

    order: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Reshaped:
    """The same entries in row-major order, in another shape."""


@dataclasses.dataclass(frozen=True, slots=True)
class Broadcast:
    """Dimension k of the operand becomes dimension `axes[k]` of the result."""

    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Squeezed:
    """The operand without these dimensions, which have size 1."""

    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Sliced:
    """Each result is a part of the operand.

    Attributes:
        parts: For each result the (start, limit, stride) along each dimension.
    """

    parts: tuple[tuple[tuple[int, int, int], ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Padded:
    """Operand 0 amid copies of operand 1: (before, after, between) along each dimension."""

    config: tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Concatenated:
    """The operands one after another along a dimension."""

    axis: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stacked:
    """The operands one after another along a new dimension."""

    axis: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tiled:
    """The operand repeated along each dimension."""

    times: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Reduced:
    """One number for all positions along these dimensions.

    Attributes:
        axes: The dimensions.
        is_sum: Whether it is their sum: then what is zero may as well be left out.
    """

    axes: tuple[int, ...]
    is_sum: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Mixed:
    """All operands have one layout, and positions along some dimensions depend on their order.

    Attributes:
        axes: The dimensions: cumulated, sorted, reversed, seen through a window.
        keeps_zeros: Whether result k is zero where all of operand k is along them.
        is_window: Whether a window slides along them.
    """

    axes: tuple[int, ...]
    keeps_zeros: bool
    is_window: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Product:
    """A product of operands 0 and 1: the result has batch, left and right dimensions.

    Attributes:
        batch: Pairs of dimensions that both operands share.
        summed: Pairs of dimensions that are summed over.
        left: The other dimensions of operand 0.
        right: The other dimensions of operand 1.
    """

    batch: tuple[tuple[int, int], ...]
    summed: tuple[tuple[int, int], ...]
    left: tuple[int, ...]
    right: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class RaggedProduct:
    """Rows of operand 0, in groups of sizes that operand 2 says, by a matrix of operand 1 each.

    Attributes:
        summed: The dimension of each that is summed over.
        group: The dimension of operand 1 that the groups are along.
        right: The other dimension of operand 1.
    """

    summed: tuple[int, int]
    group: int
    right: int


@dataclasses.dataclass(frozen=True, slots=True)
class Convolved:
    """A convolution of operand 0 with the kernel that operand 1 is.

    Attributes:
        image: Dimensions of operand 0: batch, channels, those that the kernel slides along.
        kernel: Dimensions of operand 1: outputs, inputs, those of the window.
        result: Dimensions of the result, as of operand 0.
        groups: Into how many groups the channels are cut.
        pairs: How many pairs of a position and a tap of the window are multiplied.
    """

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    result: tuple[int, ...]
    groups: int
    pairs: int


@dataclasses.dataclass(frozen=True, slots=True)
class LookedUp:
    """Entries of operand 0 at indices that are data.

    Attributes:
        whole: For each dimension of the result, that of operand 0 which lies along it whole.
        indices: For each dimension of the result, that of operand 1 which it is.
    """

    whole: tuple[int | None, ...]
    indices: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Scattered:
    """Operand 0 with operand 2 put into it, or added to it, at indices that are data: operand 1.

    Attributes:
        whole: For each dimension of operand 2, that of operand 0 which it covers whole.
    """

    whole: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A part of operand 0 from a start that is data: whole along the dimensions of equal size."""


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """Operand 0 with operand 1 put at a start that is data."""


Layout: TypeAlias = (
    Same
    | Aligned
    | Generated
    | Transposed
    | Reshaped
    | Broadcast
    | Squeezed
    | Sliced
    | Padded
    | Concatenated
    | Stacked
    | Tiled
    | Reduced
    | Mixed
    | Product
    | RaggedProduct
    | Convolved
    | LookedUp
    | Scattered
    | Window
    | Placed
)

"""What an equation of a jaxpr does, in terms that no version of JAX changes.

`_jax.read` translates an equation into one of these; everything else here reads only them.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxprune.tracing._moves import Rearrangement

AnyJaxpr: TypeAlias = ClosedJaxpr | Jaxpr


@dataclasses.dataclass(frozen=True, slots=True)
class Passed:
    """Result k is operand k, in another precision or place at most."""


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """Each result is operand 0 with its entries moved.

    Attributes:
        moves: What is done to operand 0, in order, for each result.
    """

    moves: tuple[tuple[Rearrangement, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Joined:
    """The result is the sum of all operands, each moved to a place of its own among zeros.

    Attributes:
        moves: What is done to each operand, in order.
    """

    moves: tuple[tuple[Rearrangement, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Elementwise:
    """Each entry of the result comes of one entry of each operand.

    Attributes:
        scales: The operands that are only multiplied when all others are single numbers.
        is_aligned: Whether operands and result have one layout, up to broadcast sizes of 1.
    """

    scales: tuple[int, ...] = ()
    is_aligned: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Roles:
    """What a product or convolution does along each dimension of one operand.

    Attributes:
        batch: Dimensions that all operands and the result share.
        output: Dimensions that the result keeps.
        input: Dimensions that are summed over.
        groups: Into how many groups the output is cut, each with inputs of its own.
        other_batch: For each batch dimension, that of the other operand; of products only.
        other_input: For each input dimension, that of the other operand; of products only.
    """

    batch: tuple[int, ...]
    output: tuple[int, ...]
    input: tuple[int, ...]
    groups: int = 1
    other_batch: tuple[int, ...] = ()
    other_input: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Contraction:
    """A product or a convolution of operands 0 and 1.

    Attributes:
        use: "product" or "convolution".
        roles: Those of both operands; None where a leaf as this operand is not read.
        multiply_adds: How many numbers are multiplied and added.
    """

    use: str
    roles: tuple[Roles | None, Roles | None]
    multiply_adds: int


@dataclasses.dataclass(frozen=True, slots=True)
class Indexed:
    """The result holds the entries of operand 0 that the other operands point to.

    Attributes:
        picked: (dimension, (operand, component)) of every index, where each is one number and the
            other dimensions come whole; None where it is anything else.
        moves: What is left to do to the picked entries.
        behind: For each dimension of the result, that of operand 0 whose entries lie along it;
            None where that is unknown.
    """

    picked: tuple[tuple[int, tuple[int, int | None]], ...] | None
    moves: tuple[Rearrangement, ...] = ()
    behind: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """Runs one jaxpr on exactly the operands."""

    jaxpr: AnyJaxpr


@dataclasses.dataclass(frozen=True, slots=True)
class Scan:
    """Runs a jaxpr `length` times: operands are constants, then the carry, then what is unstacked.

    Attributes:
        jaxpr: The body: (constants, carry, one index of the rest) to (carry, one index of results).
        constants: How many operands are constants.
        carry: How many operands are carried.
        length: How many turns.
        reverse: Whether it begins with the last index.
    """

    jaxpr: AnyJaxpr
    constants: int
    carry: int
    length: int
    reverse: bool


@dataclasses.dataclass(frozen=True, slots=True)
class While:
    """Runs a jaxpr until another says stop: both one's constants, then the carry.

    Attributes:
        condition: (its constants, carry) to a boolean.
        body: (its constants, carry) to the carry.
        condition_constants: How many operands, from the first on, are those of the condition.
        body_constants: How many operands after these are those of the body.
    """

    condition: AnyJaxpr
    body: AnyJaxpr
    condition_constants: int
    body_constants: int


@dataclasses.dataclass(frozen=True, slots=True)
class Branches:
    """Operand 0 says which jaxpr runs on the other operands."""

    jaxprs: Sequence[AnyJaxpr]


@dataclasses.dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is known about the primitive."""


Reading: TypeAlias = (
    Passed
    | Moved
    | Joined
    | Elementwise
    | Contraction
    | Indexed
    | Call
    | Scan
    | While
    | Branches
    | Unknown
)

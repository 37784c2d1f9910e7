"""Gathers the statistics of pieces: each activation once, over as many batches as come."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import NoMatch, PruningError
from jaxprune._text import integer
from jaxprune._tree import some
from jaxprune.calibration._pieces import Piece, pieces_of
from jaxprune.calibration._sharing import activations
from jaxprune.calibration._statistics import Gather, Sums, measure_of, summed
from jaxprune.tracing._activations import run_measured
from jaxprune.tracing._trace import Program
from jaxprune.tracing._walk import Met

MAX_BYTES = 8 * 2**30


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Gathering:
    """What is gathered, for which piece.

    Attributes:
        pieces: The pieces.
        group: For each piece the number of its sums: pieces that read the same share them.
        members: For each of the sums which of `met` add up to it.
        met: Where to measure.
        keys: For each of `met` what its statistic depends on.
    """

    pieces: tuple[Piece, ...]
    group: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    met: tuple[Met, ...]
    keys: tuple[Hashable, ...]

    @property
    def signature(self) -> Hashable:
        """Equal for programs whose sums add up."""
        return tuple((p.key, p.shape, g) for p, g in zip(self.pieces, self.group, strict=True))

    def firsts(self) -> list[Piece]:
        """For each of the sums that a piece reads the first that does."""
        return [self.pieces[self.group.index(g)] for g in dict.fromkeys(self.group)]

    def summed(self, group: int, measured: Mapping[int, Sums] | Sequence[Sums]) -> Sums:
        """One of the sums, of what was measured at each of `met`."""
        return summed([measured[k] for k in self.members[group]])


def gathering_of(program: Program, pieces: Sequence[Piece]) -> Gathering:
    """What has to be gathered for these pieces of a program."""
    every = [met for piece in pieces for met in piece.met]
    identities = activations(program.jaxpr, every)
    numbers: dict[Hashable, int] = {}
    met: list[Met] = []
    for one, identity in zip(every, identities, strict=True):
        if identity not in numbers:
            numbers[identity] = len(numbers)
            met.append(one)
    rest = iter(identities)
    reads = [tuple(sorted(numbers[next(rest)] for _ in piece.met)) for piece in pieces]
    members = tuple(dict.fromkeys(reads))
    group = tuple(members.index(each) for each in reads)
    return Gathering(tuple(pieces), group, members, tuple(met), tuple(numbers))


def chosen_pieces(program: Program, is_in_scope: Callable[[str], bool]) -> list[Piece]:
    """The pieces of the leaves in scope.

    Raises:
        NoMatch: There are none.
    """
    pieces = pieces_of(program, is_in_scope)
    if not pieces:
        raise NoMatch(
            "no product or convolution with the inputs reads a leaf in scope: print(jp.trace(f, "
            "params, *inputs)) shows what each leaf is used for."
        )
    return pieces


def compiled(
    program: Program, gathering: Gathering, gather: Gather
) -> Callable[[list[Any]], list[Sums]]:
    """The function of all arrays of a program that gives one batch's sums."""
    measure = measure_of(gather)

    def gathered(arrays: list[Any]) -> list[Sums]:
        _, measured = run_measured(program.jaxpr, arrays, gathering.met, measure)
        return [gathering.summed(group, measured) for group in range(len(gathering.members))]

    return jax.jit(gathered)


def refuse_large(gathering: Gathering, max_bytes: int) -> None:
    """Refuses Grams that take more memory than they may.

    Raises:
        PruningError: Naming the largest.
    """
    firsts = gathering.firsts()
    sizes = [_gram_bytes(piece) for piece in firsts]
    if sum(sizes) <= max_bytes:
        return
    order = sorted(range(len(sizes)), key=lambda k: -sizes[k])
    largest = ", ".join(f"{firsts[k].name} {integer(sizes[k])}" for k in order[:3])
    raise PruningError(
        f"the Grams take {integer(sum(sizes))} bytes, more than max_bytes={integer(max_bytes)}; "
        f"the largest: {largest}. Leave leaves out with where=, raise max_bytes= if the memory is "
        'there, or gather="squares".'
    )


def refuse_infinite(gathering: Gathering, total: Mapping[int, Sums] | Sequence[Sums]) -> None:
    """Refuses sums that NaN or infinity has gone into.

    Raises:
        PruningError: Naming the leaves, the first that the model reads first.
    """
    groups = list(dict.fromkeys(gathering.group))
    each = _all_finite([total[group].sums for group in groups])
    are_finite = {group: bool(np.asarray(x)) for group, x in zip(groups, each, strict=True)}
    bad = [p for p, g in zip(gathering.pieces, gathering.group, strict=True) if not are_finite[g]]
    if bad:
        several = len(bad) > 1
        raise PruningError(
            f"activations that meet {some([piece.leaf.path for piece in bad])} are not finite: "
            f"look for NaN and infinity in the batches and in params, before "
            f"{'the first of them' if several else 'that leaf'}, or leave "
            f"{'them' if several else 'it'} out with where=."
        )


@jax.jit
def _all_finite(sums: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(x).all() for x in sums]


def _gram_bytes(piece: Piece) -> int:
    like = jax.ShapeDtypeStruct(piece.shape, jnp.float32)
    *before, _, into = jax.eval_shape(piece.form.matrices, like).shape
    return 4 * math.prod(before) * into**2

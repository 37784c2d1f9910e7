"""When a new mask is chosen, and how sparse it is then: pure functions of the update count.

Counts are of updates made: 0 is the state `init` returns, and after the n-th update the count is n.
Everywhere the sparsity asked for is reached exactly: when the count is `last`, the sparsity is the
spec's own, whatever the steps before it.
"""

import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from jaxprune._errors import PruningError
from jaxprune._text import integer, shown, table

_ROWS = 12  # lines of a printed schedule


@dataclass(frozen=True)
class Schedule:
    """Two functions of the update count: when, and how much. Print it to see its steps.

    Attributes:
        fires: Whether a new mask is chosen after so many updates.
        sparsity: How sparse it then is, of the count and the sparsity that the spec asks for.
        last: The count from which on the sparsity is the spec's.
        falls: Whether the sparsity ever falls, so that weights must grow.
        initial: The sparsity it begins with: to a target below, it would fall.
        name: What made it, for messages.
    """

    fires: Callable[[Any], Any] = field(repr=False)
    sparsity: Callable[[Any, Any], Any] = field(repr=False)
    last: int
    falls: bool = False
    initial: float = 0.0
    name: str = "Schedule"

    def table(self, target: float = 0.9) -> str:
        """The updates at which a mask is chosen, and how sparse it is, as text.

        Args:
            target: The sparsity that the spec asks for.

        Returns:
            The first and the last of them, a line each.
        """
        counts = [count for count in range(self.last + 1) if self.fires(count)]
        half = _ROWS // 2
        shown_counts = counts if len(counts) <= _ROWS else [*counts[:half], None, *counts[-half:]]
        rows = [
            ["...", "..."]
            if count is None
            else [integer(count), f"{float(self.sparsity(count, target)):.4f}"]
            for count in shown_counts
        ]
        return table(["updates", "sparsity"], rows, left=0)

    def __str__(self) -> str:
        return f"{self.name}, for a target of 0.9\n{self.table()}"


def one_shot(at: int = 0) -> Schedule:
    """Prunes once: dense before `at` updates, the spec's sparsity from then on.

    Args:
        at: The count of updates at which the mask is chosen. With 0 `init` chooses it, and the
            first update makes the zeros.

    Returns:
        The schedule.

    Raises:
        PruningError: `at` is not an integer of 0 or more.
    """
    _check(at=at)
    return Schedule(
        fires=lambda count: count == at,
        sparsity=lambda count, target: jnp.where(jnp.asarray(count) >= at, target, 0.0),
        last=at,
        name=f"one_shot({at})",
    )


def gradual(
    begin: int, end: int, every: int = 1, *, initial: float = 0.0, power: float = 3.0
) -> Schedule:
    """Prunes more and more: the polynomial of Zhu and Gupta, "To prune, or not to prune", 2017.

    With p = (count - begin) / (end - begin), and s the spec's sparsity,

        sparsity = s + (initial - s) * (1 - p) ** power

    so it is 0 before `begin`, `initial` at `begin` and exactly s at `end` and after.

    Args:
        begin: The count of updates at which pruning begins.
        end: The count at which the target is met.
        every: How many updates apart masks are chosen. At `end` one is chosen in any case.
        initial: The sparsity at `begin`.
        power: 1 prunes at a steady pace, 3 most at the beginning.

    Returns:
        The schedule.

    Raises:
        PruningError: `end` lies before `begin`, `every` is below 1, or an argument is not a number.

    Examples:
        >>> import jaxprune as jp
        >>> print(jp.gradual(begin=100, end=400, every=100))
        gradual(100, 400, every=100), for a target of 0.9
        updates  sparsity
        -----------------
            100  0.0000
            200  0.6333
            300  0.8667
            400  0.9000
    """
    _check(begin=begin, end=end, every=every)
    _check_order(begin, end)
    real = isinstance(initial, numbers.Real) and isinstance(power, numbers.Real)
    if not real or not 0 <= initial < 1 or not power > 0:
        raise PruningError(
            f"expected 0 <= initial < 1 and power > 0, got initial={shown(initial)}, "
            f"power={shown(power)}."
        )

    def sparsity(count: Any, target: Any) -> Any:
        count = jnp.asarray(count)
        part = ((count - begin) / max(end - begin, 1)).clip(0, 1)
        ramp = target + (initial - target) * (1 - part) ** power
        return jnp.where(count >= end, target, jnp.where(count >= begin, ramp, 0.0))

    return Schedule(
        fires=_regular(begin, end, every),
        sparsity=sparsity,
        last=end,
        initial=initial,
        name=f"gradual({begin}, {end}, every={every})",
    )


def constant(begin: int, end: int, every: int = 1) -> Schedule:
    """The spec's sparsity from `begin` on, with a new mask at regular intervals.

    For rules that move weights about, such as `rigl` and `sparse_evolution`.

    Args:
        begin: The count of updates at which the first mask is chosen.
        end: The count at which the last one is.
        every: How many updates apart masks are chosen.

    Returns:
        The schedule.

    Raises:
        PruningError: As `gradual`.
    """
    _check(begin=begin, end=end, every=every)
    _check_order(begin, end)
    return Schedule(
        fires=_regular(begin, end, every),
        sparsity=lambda count, target: jnp.where(jnp.asarray(count) >= begin, target, 0.0),
        last=end,
        name=f"constant({begin}, {end}, every={every})",
    )


def periodic(begin: int, end: int, *, sparse: int, dense: int) -> Schedule:
    """Sparse and dense phases in turn: dense before `begin`, sparse for good from `end` on.

    Phases as in AC/DC, Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training", 2021.
    The sparsity falls to 0, so the rule must grow weights: `jp.acdc()`.

    Args:
        begin: The count of updates at which the first sparse phase begins.
        end: The count at which the last one begins.
        sparse: The updates in a sparse phase.
        dense: The updates in a dense phase.

    Returns:
        The schedule.

    Raises:
        PruningError: `end` lies before `begin`, or a phase is shorter than 1.
    """
    _check(begin=begin, end=end, sparse=sparse, dense=dense)
    _check_order(begin, end)
    period = sparse + dense

    def fires(count: Any) -> Any:
        place = (count - begin) % period
        turns = (count >= begin) & (count < end) & ((place == 0) | (place == sparse))
        return turns | (count == end)

    def sparsity(count: Any, target: Any) -> Any:
        count = jnp.asarray(count)
        is_sparse = (count >= begin) & ((count - begin) % period < sparse)
        return jnp.where(is_sparse | (count >= end), target, 0.0)

    return Schedule(fires, sparsity, end, falls=True, name=f"periodic({begin}, {end})")


def _regular(begin: int, end: int, every: int) -> Callable[[Any], Any]:
    def fires(count: Any) -> Any:
        inside = (count >= begin) & (count <= end)
        return inside & (((count - begin) % every == 0) | (count == end))

    return fires


_LEAST = {"every": 1, "sparse": 1, "dense": 1}


def _check(**counts: Any) -> None:
    for name, value in counts.items():
        least = _LEAST.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise PruningError(
                f"{name} counts updates: expected a Python integer of {least} or more, got "
                f"{shown(value)}."
            )


def _check_order(begin: int, end: int) -> None:
    if end < begin:
        raise PruningError(
            f"end={end} lies before begin={begin}: the schedule could never meet its target."
        )

"""Timing side by side: every contender runs once a round, so that all meet the same noise.

On a shared machine milliseconds drift by half within a minute; ratios within one round do not. So
what is judged is the median of the rounds' ratios, never the ratio of two separate runs.
"""

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

_WARM_UP = 2  # untimed calls: the first compiles, the second meets the allocator as the others will
_PATIENCE = 2.0  # seconds after which a contender that has run often enough sits out
_ENOUGH = 3


class Contender(NamedTuple):
    """Someone who does a kind of work, and how jaxprune should compare with them.

    Attributes:
        name: What the table calls them.
        run: Does the work, on what `prepare` returned.
        must: The largest ratio of jaxprune's time to theirs that is acceptable; None if any is.
        aim: The ratio that would be good.
        prepare: Makes fresh arguments for `run`, untimed.
        weights: Divides the time, where contenders work on different amounts.
        module: The import without which they cannot run.
        on_host: Whether they stay on the CPU whatever the backend is.
        warm_up: How many untimed calls come first; those that compile nothing may need none.
    """

    name: str
    run: Callable[..., Any]
    must: float | None = None
    aim: float | None = None
    prepare: Callable[[], tuple[Any, ...]] = tuple
    weights: int = 1
    module: str = "jax"
    on_host: bool = False
    warm_up: int = _WARM_UP


class Line(NamedTuple):
    """One comparison, ready for the table: amounts in words, ratios as numbers.

    Attributes:
        ours: What jaxprune took.
        rival: Whom or what it is compared with.
        theirs: What the rival took.
        ratio: Ours over theirs.
        quartiles: Of the ratio over the rounds; None if there was one measurement.
        must: As in `Contender`.
        aim: As in `Contender`.
    """

    ours: str
    rival: str
    theirs: str
    ratio: float
    quartiles: tuple[float, float] | None = None
    must: float | None = None
    aim: float | None = None


class Row(NamedTuple):
    """A kind of work: its name, and what measures it in a number of rounds.

    Attributes:
        name: What the table calls it.
        measure: Builds its arrays when called, so that an unwanted row costs nothing.
        fresh: Whether it starts processes of its own. These go first: some accelerators serve one
            process at a time, and the rows after them occupy it.
    """

    name: str
    measure: Callable[[int], list[Line]]
    fresh: bool = False


def race(ours: Contender, rivals: Sequence[Contender], rounds: int) -> list[Line]:
    """Times all contenders round by round, and compares the first with each of the others.

    Args:
        ours: jaxprune.
        rivals: The others; who cannot be imported is left out.
        rounds: How often each runs. Slow ones run less often.

    Returns:
        One line a rival.
    """
    field = [ours, *(rival for rival in rivals if is_installed(rival.module))]
    for contender in field:
        for _ in range(contender.warm_up):
            _timed(contender)
    times: list[list[float]] = [[] for _ in field]
    gc.collect()
    gc.disable()  # or it collects in the middle of a round
    try:
        for _ in range(rounds):
            for contender, taken in zip(field, times, strict=True):
                if len(taken) < _ENOUGH or sum(taken) < _PATIENCE:
                    taken.append(_timed(contender))
    finally:
        gc.enable()
    return [
        _line(ours, times[0], rival, taken)
        for rival, taken in zip(field[1:], times[1:], strict=True)
    ]


def is_installed(module: str) -> bool:
    """Whether `module` can be imported, found out without importing it."""
    return importlib.util.find_spec(module) is not None


def seconds(value: float) -> str:
    """A time for a person: three digits, in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def megabytes(value: float) -> str:
    """A number of bytes for a person."""
    return f"{value / 1e6:.1f} MB"


def _timed(contender: Contender) -> float:
    arguments = contender.prepare()
    start = time.perf_counter()
    result = jax.block_until_ready(contender.run(*arguments))
    taken = time.perf_counter() - start
    del result  # after the clock has stopped
    return taken


def _line(ours: Contender, our_times: list[float], rival: Contender, times: list[float]) -> Line:
    per = ours.weights / rival.weights
    ratios = [mine / theirs / per for mine, theirs in zip(our_times, times, strict=False)]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else None
    away = rival.on_host and jax.default_backend() != "cpu"
    return Line(
        ours=seconds(statistics.median(our_times) / ours.weights),
        rival=f"{rival.name} (on the CPU)" if away else rival.name,
        theirs=seconds(statistics.median(times) / rival.weights),
        ratio=statistics.median(ratios),
        quartiles=(quartiles[0], quartiles[2]) if quartiles else None,
        must=rival.must,
        aim=rival.aim,
    )

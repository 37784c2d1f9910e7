"""What is left out of a program of which some sums lose a branch."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxprune.shrinking._flow import Flow
from jaxprune.shrinking._program import Step


class Dropped(NamedTuple):
    """What is left out of a program.

    Attributes:
        streams: Sums of which one operand alone is left, and which one.
        dead: Steps whose results nothing needs any more.
        opened: Calls that hold some of these.
        leaves: The numbers of the leaves that nothing reads any more.
    """

    streams: Mapping[Step, int]
    dead: frozenset[Step]
    opened: frozenset[Step]
    leaves: frozenset[int]


NOTHING = Dropped({}, frozenset(), frozenset(), frozenset())


def dropped(flow: Flow, leaf_count: int, streams: Mapping[Step, int]) -> Dropped:
    """What is left out of a program.

    Args:
        flow: The program.
        leaf_count: How many of its inputs, from the first on, are leaves.
        streams: Sums of which one operand alone is left, and which one.
    """
    if not streams:
        return NOTHING
    gone, dead = flow.released(streams)
    leaves = frozenset(k for k in range(leaf_count) if flow.inputs[k] in gone)
    for op in flow.operations:
        # What leads to no result runs nevertheless, as long as there is what it takes.
        if not gone.isdisjoint(op.operands) and op.step not in streams:
            dead.add(op.step)
            gone.update(op.results)
    opened = set()
    for call in flow.calls:
        is_read = any(flow.uses[value] and value not in gone for value in call.results)
        if call.inside <= dead and not is_read:
            dead.add(call.step)
        elif not call.inside.isdisjoint((*dead, *streams)) or not gone.isdisjoint(call.operands):
            opened.add(call.step)
    return Dropped(streams, with_inside(dead), frozenset(opened), leaves)


def with_inside(steps: Iterable[Step]) -> frozenset[Step]:
    """Steps, and those that they run."""
    union = set(steps)
    union |= {inner for step in union for body in step.bodies for inner, _ in body.all_steps()}
    return frozenset(union)

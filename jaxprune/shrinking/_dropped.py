"""What is left out of a program of which some sums lose a branch."""

from collections.abc import Mapping
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
    before, after = flow.live({}), flow.live(streams)
    gone = before - after
    leaves = frozenset(k for k in range(leaf_count) if flow.inputs[k] in gone)
    dead: set[Step] = set()
    for op in flow.operations:
        # What nobody ever read still runs, if there is what it takes.
        if after.isdisjoint(op.results) and not gone.isdisjoint((*op.results, *op.operands)):
            dead.add(op.step)
            gone.update(op.results)
    opened = set()
    for call in flow.calls:
        if call.inside and call.inside <= dead and after.isdisjoint(call.results):
            dead.add(call.step)
        elif not call.inside.isdisjoint((*dead, *streams)) or not gone.isdisjoint(call.operands):
            opened.add(call.step)
    dead |= {inner for step in dead for body in step.bodies for inner, _ in body.all_steps()}
    return Dropped(streams, frozenset(dead), frozenset(opened), leaves)

"""Finds the residual blocks of a model: branches, and the layers of stacks."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxprune._tree import Leaf, is_prunable
from jaxprune.shrinking._blocks import ONE, Block, atoms, root
from jaxprune.shrinking._costs import Costs
from jaxprune.shrinking._dropped import Dropped, dropped, with_inside
from jaxprune.shrinking._flow import Flow, Operation
from jaxprune.shrinking._groups import module_of
from jaxprune.shrinking._program import Axes, Body, Step, Why
from jaxprune.shrinking._residual import Facts, Sum, facts_of, sums
from jaxprune.shrinking._residual_blocks import ResidualBlock
from jaxprune.shrinking._stacks import Stack, stacks


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a residual block is in a program.

    Attributes:
        step: The sum that the branch goes into, or the scan over the stack.
        stream: Of a sum, which of its operands is the stream; None for a stack.
        last: The numbers of the leaves which, where they are zero, make it add nothing.
        streams: For each value that is added to: its number among the results, and the axes along
            which the vectors are that the last leaves write.
    """

    step: Step
    stream: int | None
    last: frozenset[int]
    streams: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    def layers(self) -> Block:
        """The axis that the layers of a stack are along."""
        assert self.step.turns is not None
        return root(self.step.turns)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Depth:
    """The residual blocks of a model, by name.

    Attributes:
        flow: The program as a list of operations.
        leaf_count: How many of its inputs are leaves of the parameters.
        blocks: The blocks.
        places: Where they are.
    """

    flow: Flow
    leaf_count: int
    blocks: Mapping[str, ResidualBlock]
    places: Mapping[str, Place]

    def without(self, names: Iterable[str]) -> Dropped:
        """What is left out of the program with some branches."""
        places = [self.places[name] for name in names]
        streams = {place.step: place.stream for place in places if place.stream is not None}
        return dropped(self.flow, self.leaf_count, streams)


class _Candidate(NamedTuple):
    """A block before it has a name: it is called as the common module of some leaves.

    Attributes:
        block: The block; its name is its role.
        place: Where it is.
        paths: The paths of the leaves that it is called by.
        dead: The steps that go with it.
    """

    block: ResidualBlock
    place: Place
    paths: tuple[str, ...]
    dead: frozenset[Step] = frozenset()


def depth_of(
    body: Body,
    leaves: Sequence[Leaf],
    axes: Sequence[Axes],
    *,
    costs: Costs,
    multiplied: Collection[int],
    kept: Mapping[int, str],
) -> Depth:
    """Finds the residual blocks of a program.

    Args:
        body: The program: (leaves, data) to results.
        leaves: The leaves of the parameters.
        axes: Their axes.
        costs: What units cost.
        multiplied: The numbers of the leaves that products and convolutions read.
        kept: Why some leaves are to stay, by number.
    """
    count, others = len(leaves), len(body.inputs) - len(leaves)
    silences = [
        frozenset([k]) if is_prunable(leaf.value) else None for k, leaf in enumerate(leaves)
    ]
    facts = facts_of(body, [*silences, *[None] * others], [False] * count + [True] * others)
    finder = _Finder(facts, leaves, axes, costs, frozenset(multiplied), kept)
    candidates = [one for each in sums(facts) if (one := finder.of_sum(each)) is not None]
    candidates += [finder.of_stack(stack) for stack in stacks(facts, axes, multiplied)]
    order = {op.step: k for k, op in enumerate(facts.flow.operations)}
    candidates.sort(key=lambda one: order[one.place.step])
    # What is inside of a branch that can be left out needs no excuse.
    inside = {step for one in candidates if not one.block.refused for step in one.dead}
    candidates = [
        one for one in candidates if not one.block.refused or one.place.step not in inside
    ]
    names = _names(candidates, [leaves[k].path for k in sorted(multiplied)])
    return Depth(
        facts.flow,
        count,
        {
            name: dataclasses.replace(one.block, name=name)
            for name, one in zip(names, candidates, strict=True)
        },
        {name: one.place for name, one in zip(names, candidates, strict=True)},
    )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Finder:
    """What blocks are made of."""

    facts: Facts
    leaves: Sequence[Leaf]
    axes: Sequence[Axes]
    costs: Costs
    multiplied: frozenset[int]
    kept: Mapping[int, str]

    def of_sum(self, one: Sum) -> _Candidate | None:
        """The branch that goes into a sum, if it has weights of its own."""
        sides = [self.facts.silences[number] for number in one.operation.operands]
        if sides[0] is not None and sides[1] is not None and sides[0] & sides[1]:
            # Both are made of one leaf: the halves of rotary pairs, say.
            return None
        if one.stream is not None:
            return self._branch(one.operation, one.stream)
        if None in sides:
            return None
        branches = [each for k in (0, 1) if (each := self._branch(one.operation, k)) is not None]
        if len(branches) < 2 or not all(each.block.multiply_adds for each in branches):
            return None
        skip, branch = sorted(branches, key=lambda each: each.block.weights)
        words = f"what it is added to has weights of its own, such as `{skip.paths[0]}`"
        why = str(Why(words, one.operation.step.equations))
        block = dataclasses.replace(branch.block, refused=why)
        return branch._replace(block=block, paths=branch.paths + skip.paths)

    def _branch(self, op: Operation, stream: int) -> _Candidate | None:
        """The other operand of a sum, if there are leaves that nothing else reads."""
        flow, costs = self.facts.flow, self.costs
        values, steps = flow.released({op.step: stream})
        gone = frozenset(k for k in range(len(self.leaves)) if flow.inputs[k] in values)
        if not gone:
            return None
        dead = with_inside(steps)
        last = self.facts.silences[op.operands[1 - stream]]
        refused = self._why_not(op.step, last, gone)
        matrices = self._paths(gone & self.multiplied)
        block = ResidualBlock(
            "branch",
            1,
            self._paths(gone),
            self._paths(last or ()),
            costs.weights_of(gone),
            costs.multiply_adds_of(dead),
            refused,
        )
        axes = self._vector(op.step.results[0], last or (), gone)
        place = Place(op.step, stream, last or frozenset(), ((0, axes),))
        return _Candidate(block, place, matrices or block.leaves, dead)

    def of_stack(self, stack: Stack) -> _Candidate:
        """The layers of a stack."""
        step = stack.step
        refused = stack.refused or self._kept(stack.leaves)
        assert step.turns is not None
        layers = root(step.turns)
        block = ResidualBlock(
            "layers",
            layers.size,
            self._paths(stack.leaves),
            self._paths(stack.last),
            *self.costs.of_unit(layers),
            refused,
        )
        streams = [
            (k, self._vector(step.results[k], stack.last, stack.leaves)) for k in stack.carries
        ]
        paths = self._paths(self.multiplied.intersection(stack.leaves))
        return _Candidate(block, Place(step, None, stack.last, tuple(streams)), paths)

    def _why_not(self, step: Step, last: frozenset[int] | None, gone: frozenset[int]) -> str:
        words = ""
        if self.multiplied.isdisjoint(gone):
            words = "it has no matrix of its own, or a result such as a state needs that too"
        elif last is None:
            words = "no weights of its own make it add zero"
        elif last - gone:
            shared = self.leaves[min(last - gone)]
            words = f"{shared.name} makes it add zero, and is read elsewhere too"
        return str(Why(words, step.equations)) if words else self._kept(gone)

    def _kept(self, numbers: Iterable[int]) -> str:
        return next((self.kept[k] for k in sorted(numbers) if k in self.kept), "")

    def _paths(self, numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.leaves[k].path for k in sorted(numbers))

    def _vector(self, axes: Axes, *leaves: Iterable[int]) -> tuple[int, ...]:
        """The axes of a value that some leaves share with it: those of the first that do."""
        for numbers in leaves:
            units = {unit for k in numbers for block in self.axes[k] for unit in atoms(block)}
            units.discard(ONE)
            matches = tuple(k for k, block in enumerate(axes) if not units.isdisjoint(atoms(block)))
            if matches:
                return matches
        return tuple(range(len(axes)))


def _names(candidates: Sequence[_Candidate], matrices: Sequence[str]) -> list[str]:
    """A name for each: the module that holds its matrices and no others, or its last weights'."""
    names = []
    for one in candidates:
        module = _common_module(one.paths)
        others = (path for path in matrices if path not in one.paths)
        if not module or any(path.startswith(f"{module}/") for path in others):
            module = _common_module(one.block.last) or module or module_of(one.paths[0])
        names.append(f"{module}:{one.block.name}")
    taken: Counter[str] = Counter()
    for k, name in enumerate(names):
        taken[name] += 1
        if taken[name] > 1:
            names[k] = f"{name}#{taken[name]}"
    return names


def _common_module(paths: Sequence[str]) -> str:
    parts = zip(*(module_of(path).split("/") for path in paths), strict=False)
    shared = itertools.takewhile(lambda each: len({*each}) == 1, parts)
    return "/".join(same[0] for same in shared)

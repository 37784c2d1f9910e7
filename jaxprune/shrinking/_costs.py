"""What a model costs at any sizes: weights and multiply-adds."""

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from jaxprune.shrinking._blocks import Block, atoms
from jaxprune.shrinking._positions import count
from jaxprune.shrinking._program import Axes, Body, Step
from jaxprune.tracing import _layouts as at


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs, whole and cut.

    Attributes:
        weights: The weights of all floating leaves of the parameters.
        multiply_adds: The multiply-adds of one call with the inputs that were traced.
        of_weights: The same of the whole model.
        of_multiply_adds: The same of the whole model.
    """

    weights: int
    multiply_adds: int
    of_weights: int
    of_multiply_adds: int

    def __str__(self) -> str:
        return "\n".join(
            f"{left:,} of {whole:,} {what} are left ({left / max(whole, 1):.1%})"
            for what, left, whole in (
                ("weights", self.weights, self.of_weights),
                ("multiply-adds", self.multiply_adds, self.of_multiply_adds),
            )
        )


# A number, and the blocks whose sizes multiply it.
Term: TypeAlias = tuple[int, tuple[Block, ...]]


class Costs:
    """What the parameters and the products of a program cost at any sizes.

    Attributes:
        leaves: By the number of each leaf that counts: the blocks whose sizes multiply.
        products: For each product its step, how many multiply-adds an entry takes, and the blocks
            whose sizes multiply.
    """

    def __init__(self, body: Body, leaves: Mapping[int, Axes]) -> None:
        self.leaves: list[tuple[int, Term]] = [(k, (1, axes)) for k, axes in leaves.items()]
        self.products = [
            (step, (factor, (*turns, *blocks)))
            for step, turns in body.all_steps()
            for factor, blocks in _product(step)
        ]
        self._of_step: dict[Step, int] = {}
        for step, term in self.products:
            self._of_step[step] = self._of_step.get(step, 0) + _cost(term, {})
        self._by_unit = [_by_unit([term for _, term in each]) for each in self._terms]

    @property
    def _terms(self) -> tuple[Sequence[tuple[Any, Term]], ...]:
        return self.leaves, self.products

    def weights(self, left: Mapping[Block, int], gone: Container[int] = ()) -> int:
        """How many weights there are.

        Args:
            left: How many units are left, by block.
            gone: The numbers of leaves that are gone as a whole.
        """
        return sum(_cost(term, left) for k, term in self.leaves if k not in gone)

    def multiply_adds(self, left: Mapping[Block, int], dead: Container[Step] = ()) -> int:
        """How many multiply-adds there are.

        Args:
            left: How many units are left, by block.
            dead: Steps that do not run any more.
        """
        return sum(_cost(term, left) for step, term in self.products if step not in dead)

    def weights_of(self, leaves: Container[int]) -> int:
        """How many weights some leaves have."""
        return sum(_cost(term, {}) for k, term in self.leaves if k in leaves)

    def multiply_adds_of(self, steps: Iterable[Step]) -> int:
        """How many multiply-adds some steps take."""
        return sum(self._of_step.get(step, 0) for step in steps)

    def of_unit(self, unit: Block) -> tuple[int, int]:
        """The weights and the multiply-adds that go with one unit of a block."""
        less = {unit: unit.size - 1}
        weights, multiply_adds = (
            sum(_cost(terms[k][1], {}) - _cost(terms[k][1], less) for k in by_unit.get(unit, ()))
            for terms, by_unit in zip(self._terms, self._by_unit, strict=True)
        )
        return weights, multiply_adds


def _cost(term: Term, left: Mapping[Block, int]) -> int:
    cost, blocks = term
    for block in blocks:
        cost *= count(block, left)
    return cost


def _by_unit(terms: Sequence[Term]) -> dict[Block, list[int]]:
    numbers: dict[Block, list[int]] = {}
    for k, (_, blocks) in enumerate(terms):
        for unit in {unit for block in blocks for unit in atoms(block)}:
            numbers.setdefault(unit, []).append(k)
    return numbers


def _product(step: Step) -> list[Term]:
    """The multiply-adds of a step: how often, times the sizes of blocks."""
    match step.reading:
        case at.Product(summed=summed):
            return [(1, (*step.results[0], *(step.operands[0][i] for i, _ in summed)))]
        case at.RaggedProduct(summed=(left, _)):
            return [(1, (*step.results[0], step.operands[0][left]))]
        case at.Convolved(result=result, kernel=kernel, pairs=pairs):
            blocks = [step.results[0][result[k]] for k in (0, 1)]
            return [(pairs, (*blocks, step.operands[1][kernel[1]]))]
    return []

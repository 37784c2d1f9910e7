"""What of a model must be cut together, read from its program."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from jaxprune._errors import PruningError
from jaxprune._metrics import L2, Metric
from jaxprune._tree import concrete_leaves
from jaxprune.shrinking._changes import changes_of
from jaxprune.shrinking._choose import Budget, Per, choose
from jaxprune.shrinking._choose_blocks import choose_blocks
from jaxprune.shrinking._costs import Cost
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._function import SmallFunction
from jaxprune.shrinking._gone import cut_of
from jaxprune.shrinking._groups import Group, groups_table
from jaxprune.shrinking._like import shrink_tree
from jaxprune.shrinking._mask import mask_of
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._models import Models
from jaxprune.shrinking._remains import Remains, remains
from jaxprune.shrinking._residual_blocks import ResidualBlocks
from jaxprune.shrinking._rules import Amount
from jaxprune.shrinking._verify import verified

NOTHING = Cut({})


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Dependencies:
    """What of a model must be cut together; made by `dependencies`.

    `print` shows the groups and the residual blocks as tables.

    Attributes:
        model: What was read: the program, its axes, its groups.
        reread: Reads the same model for other inputs.
    """

    model: Model
    reread: Callable[[tuple[Any, ...]], Model]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups: those that can be cut, and those that cannot, each with the reason."""
        return tuple(self.model.groups.values())

    @property
    def blocks(self) -> ResidualBlocks:
        """The residual blocks: those that can be left out, and those that cannot, with the reason.

        A block is a branch that reads a stream and is added to it, or, where a scan runs over a
        stack of layers, the layers. Its name is a group's name in a `Cut` that keeps none of it.
        """
        return ResidualBlocks(self.model.depth.blocks.values())

    def __str__(self) -> str:
        blocks = [str(self.blocks)] if self.blocks else []
        return "\n\n".join([groups_table(self.groups), *blocks])

    __repr__ = __str__

    def choose(
        self,
        params: Any,
        amount: Amount,
        *,
        metric: Metric = L2(),
        per: Per = "group",
        budget: Budget = "units",
        most: float = 0.9,
        multiple_of: int = 1,
        cut: Cut = NOTHING,
    ) -> Cut:
        """Chooses the units that go: those whose weights score lowest.

        A unit's score is the sum of the scores of its weights in all kernels that it is a part of,
        divided by the mean of the group. No group is ever emptied, and what is not exact stays
        unless `amount` calls it by its name.

        Args:
            params: The parameters, with values.
            amount: The fraction that is cut, in (0, 1); or a mapping from patterns of group names
                to fractions, of which the first that matches counts, and None leaves a group as it
                is. A group whose name ends in ":heads", say, is matched without this end too.
            metric: How weights are scored: whatever `importance` takes.
            per: "group": every group loses the same fraction. "global": the units that score
                lowest go, whatever group they are of.
            budget: What the amount is a fraction of: the "units" of each group (with
                `per="global"`, of all that a pattern matches together), rounded down; or the
                "weights" or "multiply_adds" of the whole model, of which no more than the rest is
                left, and with one unit more it would be.
            most: The largest fraction of a group that may go.
            multiple_of: The number of units that stay is a multiple of this, or all of them.
                Heads, queries and experts are counted singly.
            cut: What goes already, such as residual blocks: it counts as gone in every budget, and
                is part of the result. Groups that go as a whole with a block are not counted among
                the units of a rule.

        Returns:
            The cut.

        Raises:
            PruningError: An amount is not between 0 and 1 or cannot be met; a pattern matches no
                group, or none that can be cut; the parameters are not those of the model; `cut`
                alone takes all that was asked for.
        """
        concrete_leaves(params, "choose")
        self.model.check(params)
        self._left(cut)
        return choose(
            self.model,
            params,
            amount,
            metric=metric,
            per=per,
            budget=budget,
            most=most,
            multiple_of=multiple_of,
            cut=cut,
        )

    def changes(
        self, params: Any, batches: Iterable[tuple[Any, ...]]
    ) -> dict[str, tuple[float, ...]]:
        """How much each residual block changes the stream that it is added to, over data.

        That is the mean of 1 - cos(before, after), where `before` is a vector of the stream in
        front of the block, and `after` the same with what the block adds; for a layer of a stack,
        what the layer takes and returns. The vectors lie along the axes that the last weights of
        the block write, such as the features; the mean is over all others and all batches.

        One program is compiled for all batches of one shape, and keeps no activations.

        Args:
            params: The parameters, with values.
            batches: Tuples of the inputs that follow `params`, from any iterable.

        Returns:
            By the name of each block that can be left out: the change by each of its units.

        Raises:
            PruningError: There is no batch, or no such block, or a value is not finite.
        """
        self.model.check(params)
        return changes_of(Models(self.model, self.reread), params, batches)

    def choose_blocks(self, changes: Mapping[str, Sequence[float]], amount: float) -> Cut:
        """Chooses the residual blocks that go: those that change least.

        At least one stays, and one layer of each stack. `cut | other` joins the cut with one of
        units.

        Args:
            changes: What `changes` found, or numbers of your own for each unit of each block. Those
                that it does not name stay.
            amount: How many blocks go, counting each layer of a stack; or a fraction of those that
                `changes` names, rounded down.

        Returns:
            The cut.

        Raises:
            PruningError: A name is that of no block, or of one that cannot be left out; the amount
                cannot be met.
        """
        return choose_blocks(self.model.depth, changes, amount)

    def mask(self, params: Any, cut: Cut) -> Any:
        """The mask of a cut: False at every weight of a unit that goes.

        Of a residual block it is False at the last weights: without these the block adds nothing,
        whatever its others are.

        Args:
            params: The parameters, or descriptions of them.
            cut: The cut.

        Returns:
            A tree like `params`, as `make_mask` gives it; None where a leaf loses nothing.
        """
        self.model.check(params)
        self._left(cut)
        return mask_of(self.model, params, cut)

    def shrink(self, tree: Any, cut: Cut) -> Any:
        """Cuts units out of the parameters, or of any tree like them.

        That may be batch statistics, an average, gradients, a mask, the state of an optimizer, or a
        part of one of these: an array is cut as the parameter that its path ends with, if it has
        the shape of that, or has it behind further axes. All others stay as they are.

        Args:
            tree: The tree.
            cut: The cut.

        Returns:
            A tree of the same types and dtypes, on the same devices as far as the sizes allow it.
            Where a leaf goes as a whole, with the residual block that alone reads it, it has None.

        Raises:
            StructureMismatch: An array that is called as a parameter has another shape, as factored
                statistics have, and what is cut already; or its path fits several.
        """
        return shrink_tree(tree, self.model.leaves, self.model.axes, self._left(cut))

    def cut_of(self, tree: Any) -> Cut:
        """The cut of what is gone already: of units that are zero, or masked, wherever they are.

        A residual block is gone where all of its last weights are.

        Args:
            tree: Parameters, or a mask of them, as `sparsify` with `Coupled` leaves it.

        Raises:
            NoMatch: No unit is gone.
        """
        return cut_of(self.model, tree)

    def sizes(self, cut: Cut) -> dict[str, tuple[int, ...]]:
        """The new shape of every leaf, by path: for who writes a configuration of the small model.

        A leaf that is gone as a whole has none.

        Args:
            cut: The cut.
        """
        left = self._left(cut)
        return {
            leaf.path: left.shape(self.model.axes[k])
            for k, leaf in enumerate(self.model.leaves)
            if k not in left.dropped.leaves
        }

    def cost(self, cut: Cut) -> Cost:
        """What the small model costs, beside the whole one.

        Args:
            cut: The cut.
        """
        left, costs = self._left(cut), self.model.costs
        return Cost(
            costs.weights(left.counts(), left.dropped.leaves),
            costs.multiply_adds(left.counts(), left.dropped.dead),
            costs.weights({}),
            costs.multiply_adds({}),
        )

    def function(self, cut: Cut) -> SmallFunction:
        """The model's function at its new sizes, called as `f` is, with the small parameters.

        It computes what the whole function does with masked parameters: numbers in the program,
        such as the divisor of a mean, stay as they are. It works under `jit`, `grad`, `vmap` and in
        `scan`, and `jax.export` takes it.

        Args:
            cut: The cut.
        """
        self._left(cut)
        return SmallFunction(Models(self.model, self.reread), cut)

    def verify(self, params: Any, cut: Cut, *inputs: Any, tolerance: float | None = None) -> float:
        """Runs the small model beside the masked one.

        Both run with parameters in which no leaf is zero, for zeros hide wrong places: those of
        `params`, each multiplied by a random factor, and small numbers for zeros.

        Args:
            params: The parameters.
            cut: The cut.
            *inputs: Inputs with values.
            tolerance: How far the results may differ, relative to the largest one: by default 3e-5,
                and 3e-2 for types of 16 bits.

        Returns:
            How far they differ.

        Raises:
            PruningError: They differ by more; the message names the groups.
        """
        concrete_leaves((params, inputs), "verify")
        self.model.check(params)
        with jax.default_matmul_precision("highest"):
            models = Models(self.reread(inputs), self.reread)
        return verified(models, params, cut, inputs, tolerance)

    def _left(self, cut: Cut) -> Remains:
        if not isinstance(cut, Cut):
            raise PruningError(f"expected a jp.Cut, as choose makes it, got {type(cut).__name__}.")
        return remains(cut, self.model)

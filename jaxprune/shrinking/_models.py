"""One model, read with inputs of several shapes."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

from jaxprune._errors import PruningError
from jaxprune._tree import is_array, leaves
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._traced import flat_constants

Reread: TypeAlias = Callable[[tuple[Any, ...]], Model]


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Models:
    """One model, read with inputs of several shapes.

    Attributes:
        first: The model as it was read first.
        reread: Reads it again for other inputs.
        others: As it was read again.
    """

    first: Model
    reread: Reread
    others: list[Model] = dataclasses.field(default_factory=list)

    def that_takes(self, params: Any, inputs: tuple[Any, ...]) -> Model:
        """The model, read with inputs like these.

        Raises:
            PruningError: With these inputs other units belong together.
        """
        for model in (self.first, *self.others):
            if _takes(model, params, inputs):
                return model
        model = self.reread(inputs)
        if _cuttable(model) != _cuttable(self.first):
            raise PruningError(
                "with inputs of these shapes other units belong together than with those that the "
                "dependencies were read with: call jp.dependencies with these inputs."
            )
        self.others.append(model)
        return model


def _cuttable(model: Model) -> list[Any]:
    groups = [
        (group.name, group.units, group.members)
        for group in model.groups.values()
        if not group.refused
    ]
    blocks = [
        (block.name, block.units, block.leaves)
        for block in model.depth.blocks.values()
        if not block.refused
    ]
    return [groups, blocks]


def _takes(model: Model, params: Any, inputs: tuple[Any, ...]) -> bool:
    arrays = [leaf.value for leaf in leaves(inputs) if is_array(leaf.value)]
    expected = [leaf.value for leaf in model.traced.inputs]
    constants = flat_constants(params, inputs)
    return (
        len(arrays) == len(expected)
        and all(map(_alike, arrays, expected))
        and len(constants) == len(model.traced.constants)
        and all(a is b or a == b for a, b in zip(constants, model.traced.constants, strict=True))
    )


def _alike(one: Any, other: Any) -> bool:
    return tuple(one.shape) == tuple(other.shape) and one.dtype == other.dtype

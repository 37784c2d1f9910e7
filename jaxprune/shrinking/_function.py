"""The function of a model at its new sizes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxprune._errors import Problem, PruningError, StructureMismatch, raise_problems
from jaxprune._tree import Leaf, is_array, leaves, rebuild
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._remains import Remains, remains
from jaxprune.shrinking._small import Small
from jaxprune.shrinking._traced import flat_arrays, flat_constants

Reread = Callable[[tuple[Any, ...]], Model]


@dataclasses.dataclass(slots=True, eq=False, weakref_slot=True, repr=False)
class SmallFunction:
    """A model's function without the units that were cut.

    It takes the small parameters and the inputs that the whole function takes. Where these have
    other shapes than those that the dependencies were read with, as in a batch of another size, the
    whole function is traced again with them, once for each, and cut alike.

    Attributes:
        model: The model, as it was read.
        cut: What is left of it.
        reread: Reads the whole model again for other inputs.
    """

    model: Model
    cut: Cut
    reread: Reread
    _others: list[Model] = dataclasses.field(default_factory=list)

    def __call__(self, params: Any, *inputs: Any) -> Any:
        """The result of the whole function with masked parameters.

        Args:
            params: The small parameters.
            *inputs: The other arguments.
        """
        model = self._for(params, inputs)
        left = remains(self.cut, model.groups, model.blocks)
        found = [leaf for leaf in leaves(params) if is_array(leaf.value)]
        _check_params(model, left, found)
        results = Small(left).run(model.body, flat_arrays(params, inputs))
        return model.traced.packed(results)

    def run(self, params: Any, inputs: tuple[Any, ...]) -> list[Any]:
        """The arrays of the result, flat, of a compiled call."""
        everything = leaves((params, inputs))

        @jax.jit
        def flat(arrays: list[Any]) -> list[Any]:
            rest = iter(arrays)
            whole = [next(rest) if is_array(leaf.value) else leaf.value for leaf in everything]
            of_params, of_inputs = rebuild((params, inputs), whole)
            return [
                leaf.value for leaf in leaves(self(of_params, *of_inputs)) if is_array(leaf.value)
            ]

        return flat(flat_arrays(params, inputs))

    def __repr__(self) -> str:
        return f"SmallFunction(without units of {len(self.cut.kept)} groups)"

    def _for(self, params: Any, inputs: tuple[Any, ...]) -> Model:
        """The model, read with inputs like these."""
        for model in (self.model, *self._others):
            if _takes(model, params, inputs):
                return model
        model = self.reread(inputs)
        same = [
            (name, group.units, group.members)
            for name, group in model.groups.items()
            if not group.refused
        ]
        if same != [
            (name, group.units, group.members)
            for name, group in self.model.groups.items()
            if not group.refused
        ]:
            raise PruningError(
                "with inputs of these shapes other units belong together than with those that the "
                "dependencies were read with: call jp.dependencies with these inputs."
            )
        self._others.append(model)
        return model


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


def _check_params(model: Model, left: Remains, found: Sequence[Leaf]) -> None:
    """Refuses parameters that are not those of the cut."""
    if len(found) != len(model.leaves):
        raise StructureMismatch(
            f"the params have {len(found)} arrays, and the model has {len(model.leaves)}: pass "
            "what shrink made of them."
        )
    raise_problems(
        _problem(leaf, left.shape(axes)) for leaf, axes in zip(found, model.axes, strict=True)
    )


def _problem(leaf: Leaf, expected: tuple[int, ...]) -> Problem | None:
    shape = tuple(leaf.value.shape)
    if shape == expected:
        return None
    return Problem(
        StructureMismatch,
        f"{leaf.name} has shape {shape}, and {expected} is left by this cut: pass what shrink made "
        "of the parameters with the same cut.",
    )

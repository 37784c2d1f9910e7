"""The function of a model at its new sizes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from jaxprune._errors import Problem, StructureMismatch, raise_problems
from jaxprune._tree import Leaf, arrays_in, is_array, leaves, with_arrays
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._models import Models
from jaxprune.shrinking._remains import Remains, remains
from jaxprune.shrinking._small import Small


@dataclasses.dataclass(slots=True, eq=False, weakref_slot=True, repr=False)
class SmallFunction:
    """A model's function without the units that were cut.

    It takes the small parameters and the inputs that the whole function takes. Where these have
    other shapes than those that the dependencies were read with, as in a batch of another size, the
    whole function is traced again with them, once for each, and cut alike.

    Attributes:
        models: The model, as it was read with inputs of several shapes.
        cut: What is left of it.
    """

    models: Models
    cut: Cut

    def __call__(self, params: Any, *inputs: Any) -> Any:
        """The result of the whole function with masked parameters.

        Args:
            params: The small parameters.
            *inputs: The other arguments.
        """
        model = self.models.that_takes(params, inputs)
        left = remains(self.cut, model)
        params_leaves = [leaf for leaf in leaves(params) if is_array(leaf.value)]
        _check_params(model, left, params_leaves)
        rest = iter(arrays_in((params, inputs)))
        arrays = [
            None if k in left.dropped.leaves else next(rest) for k in range(len(model.body.inputs))
        ]
        return model.traced.packed(Small(left).run(model.body, arrays))

    def run(self, params: Any, inputs: tuple[Any, ...]) -> list[Any]:
        """The arrays of the result, flat, of a compiled call."""

        @jax.jit
        def flat(arrays: list[Any]) -> list[Any]:
            of_params, of_inputs = with_arrays((params, inputs), arrays)
            return arrays_in(self(of_params, *of_inputs))

        return flat(arrays_in((params, inputs)))

    def __repr__(self) -> str:
        return f"SmallFunction(without parts of {len(self.cut.kept)} groups and blocks)"


def _check_params(model: Model, left: Remains, params_leaves: Sequence[Leaf]) -> None:
    """Refuses parameters that are not those of the cut."""
    axes = [axes for k, axes in enumerate(model.axes) if k not in left.dropped.leaves]
    if len(params_leaves) != len(axes):
        raise StructureMismatch(
            f"the params have {len(params_leaves)} arrays, and {len(axes)} are left by this cut: "
            "pass what shrink made of the parameters with the same cut."
        )
    raise_problems(
        _problem(leaf, left.shape(of)) for leaf, of in zip(params_leaves, axes, strict=True)
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

"""Runs a small model beside the masked one, and finds the group where they differ."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxprune._errors import PruningError
from jaxprune._prune import apply_mask
from jaxprune._tree import Leaf, arrays_in, is_prunable, leaves, rebuild
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._function import SmallFunction
from jaxprune.shrinking._like import shrink_tree
from jaxprune.shrinking._mask import mask_of
from jaxprune.shrinking._models import Models
from jaxprune.shrinking._remains import remains


def made_nonzero(params: Any) -> Any:
    """Parameters in which no leaf is zero or constant.

    A bias of zeros would hide that it is cut at the wrong places. Every weight keeps its sign, for
    a variance must be positive.
    """
    random = np.random.default_rng(0)

    def value(leaf: Leaf) -> Any:
        if not is_prunable(leaf.value):
            return leaf.value
        whole = np.asarray(leaf.value, np.float32)
        factor, small = (
            random.uniform(0.5, 1.5, whole.shape),
            random.uniform(0.05, 0.2, whole.shape),
        )
        changed = np.where(whole == 0, small, whole * factor)
        return jax.device_put(changed.astype(leaf.value.dtype))

    return rebuild(params, [value(leaf) for leaf in leaves(params)])


def difference(one: Sequence[Any], other: Sequence[Any]) -> float:
    """The largest difference of results, relative to the largest entry of each."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        wide = [_wide(x) for x in (a, b)]
        scale = np.abs(wide[0]).max(initial=0.0)
        gap = np.abs(wide[0] - wide[1]).max(initial=0.0)
        if not np.isfinite(gap):
            return float("inf")
        worst = max(worst, float(gap / scale) if scale else float(gap))
    return worst


def _wide(x: Any) -> np.ndarray[Any, Any]:
    """An array in double precision; keys of random numbers as the integers that they hold."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x).astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def _rounding(results: Sequence[Any]) -> float:
    """How far results of these types may differ by rounding."""
    narrow = any(str(x.dtype) in ("bfloat16", "float16") for x in results)
    return 3e-2 if narrow else 3e-5


def verified(
    models: Models, params: Any, cut: Cut, inputs: tuple[Any, ...], tolerance: float | None
) -> float:
    """The difference that a cut makes, if it is no more than rounding; see `Dependencies.verify`.

    Args:
        models: The model, read with the inputs.
        params: Parameters.
        cut: The cut.
        inputs: The inputs.
        tolerance: How far results may differ; None for what rounding makes.

    Raises:
        PruningError: It is more; the message names the groups.
    """
    model, filled = models.first, made_nonzero(params)
    whole = jax.jit(lambda arrays: jaxpr_as_fun(model.traced.jaxpr)(*arrays))

    def error(cut: Cut) -> float:
        left = remains(cut, model)
        masked = apply_mask(filled, mask_of(model, filled, cut))
        expected = whole(arrays_in((masked, inputs)))
        small = shrink_tree(filled, model.leaves, model.axes, left)
        results = SmallFunction(models, cut).run(small, inputs)
        pairs = zip(expected, model.body.outputs, strict=True)
        return difference([left.take(x, axes) for x, axes in pairs], results)

    if tolerance is None:
        tolerance = _rounding(arrays_in(model.traced.out))
    together = error(cut)
    if together <= tolerance:
        return together
    alone = {name: error(Cut({name: kept})) for name, kept in cut.kept.items()}
    wrong = [f"{name} ({gap:.1e})" for name, gap in alone.items() if not gap <= tolerance]
    which = "cut alone, these groups differ: " + ", ".join(wrong)
    raise PruningError(
        f"the small model differs from the masked one by {together:.1e}, relative to its largest "
        f"result, where {tolerance:.0e} is rounding; "
        f"{which if wrong else 'each group alone does not: they differ only together'}. Leave them "
        "out with None in a mapping of amounts."
    )

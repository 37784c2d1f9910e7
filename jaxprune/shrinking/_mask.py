"""The mask of a cut."""

from typing import Any

import jax
import numpy as np

from jaxprune._kernels.sharding import placed
from jaxprune._tree import is_array, leaves, rebuild
from jaxprune.shrinking._cut import Cut
from jaxprune.shrinking._model import Model
from jaxprune.shrinking._program import Axes
from jaxprune.shrinking._remains import Remains, remains


def mask_of(model: Model, params: Any, cut: Cut) -> Any:
    """False at every weight that is masked; None where a leaf loses nothing.

    Of a residual block the last weights alone are masked. Others may stand below a fraction, where
    zeros would make the masked model NaN.

    Args:
        model: The model.
        params: Its parameters, or descriptions of them.
        cut: The cut.
    """
    blocks = {name: kept for name, kept in cut.kept.items() if name in model.depth.blocks}
    left = remains(Cut({n: kept for n, kept in cut.kept.items() if n not in blocks}), model)
    numbers = iter(range(len(model.leaves)))

    def mask(value: Any) -> Any:
        k = next(numbers)
        kept = _kept(model.axes[k], left, value.shape)
        for name, units in blocks.items():
            if k in model.depth.places[name].last:
                count = model.depth.blocks[name].units
                gone = [unit for unit in range(count) if unit not in units]
                kept.reshape(count, -1)[gone] = False
        return None if kept.all() else placed(jax.device_put(kept), value)

    values = [leaf.value for leaf in leaves(params)]
    return rebuild(params, [mask(value) if is_array(value) else None for value in values])


def _kept(axes: Axes, left: Remains, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    kept = np.ones(shape, bool)
    for axis, block in enumerate(axes):
        kept &= np.expand_dims(left.of(block), [k for k in range(kept.ndim) if k != axis])
    return kept

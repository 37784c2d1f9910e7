"""Shares by outliers: layers of which many weights stand out lose fewer."""

import dataclasses
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprune._errors import PruningError
from jaxprune._metrics import scores_of
from jaxprune._text import shown
from jaxprune._tree import Leaf
from jaxprune.calibration._stats import Stats
from jaxprune.calibration._wanda import Wanda


@dataclasses.dataclass(frozen=True, slots=True)
class OWL:
    """A method of `allocate`: the more outliers a layer has, the denser it stays.

    A weight is an outlier if its `Wanda` score is above `multiple` times the mean of its layer. The
    layers' sparsities differ from the most outliers to the fewest by `2 * spread`, in proportion to
    the fraction of outliers, about what meets the budget. Yin et al., "Outlier Weighed Layerwise
    Sparsity (OWL)", 2023.

    Attributes:
        multiple: M in the paper.
        spread: Lambda in the paper.
        layer: From a leaf's path, the name of the layer that it is a part of; the leaves of a layer
            become equally sparse. By default each leaf is one. The paper takes whole blocks of a
            transformer: `layer=lambda path: path.split("/")[0]`, say.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxprune as jp
        >>> def model(params, x):
        ...     return x @ params["even"] @ params["odd"]
        >>> params = {"even": jnp.ones((8, 8)), "odd": jnp.ones((8, 8)).at[0, 0].set(99.0)}
        >>> stats = jp.calibrate(model, params, [(jnp.ones((4, 8)),)])
        >>> jp.allocate(params, 0.5, "owl", stats=stats)
        {'even': 0.578125, 'odd': 0.421875}
    """

    multiple: float = 5.0
    spread: float = 0.08
    layer: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("multiple", self.multiple, 0), ("spread", self.spread, 0)):
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not number or not least <= value < (1 if name == "spread" else 1e9):
                raise PruningError(
                    f"{name} is a number of 0 or more{', below 1' * (name == 'spread')}, got "
                    f"{shown(value)}: OWL(multiple=5, spread=0.08) is usual."
                )


def denser_by(method: OWL, leaves: dict[int, Leaf], stats: Stats) -> dict[int, float]:
    """By how much each leaf's density is above that of the leaf with the fewest outliers."""
    scores = scores_of(Wanda(stats), list(leaves.values()))
    names = {
        i: method.layer(leaf.path) if method.layer else leaf.path for i, leaf in leaves.items()
    }
    layers: dict[str, list[jax.Array]] = {}
    for name, score in zip(names.values(), scores, strict=True):
        layers.setdefault(name, []).append(score)
    ratios = {name: float(_outliers(of, method.multiple)) for name, of in layers.items()}
    low, high = min(ratios.values()), max(ratios.values())
    scale = 2 * method.spread / (high - low) if high > low else 0.0
    return {i: (ratios[name] - low) * scale for i, name in names.items()}


@jax.jit
def _outliers(scores: list[jax.Array], multiple: float) -> jax.Array:
    """The fraction of a layer's scores above `multiple` times their mean."""
    size = sum(score.size for score in scores)
    mean = sum(jnp.sum(score) / size for score in scores)
    return sum((jnp.sum(score > multiple * mean) / size for score in scores), jnp.float32(0))

"""How a weight is scored: metrics, and `importance`, which applies one to a tree.

A metric is a small frozen object that says what to compute; `scores_of` computes it for the leaves
of a tree, and dispatches on the metric's type. A function of one array is a metric too.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import NoMatch, Problem, PruningError, StructureMismatch, raise_problems
from jaxprune._kernels import host, lcg
from jaxprune._kernels.floats import square
from jaxprune._kernels.placement import from_host, is_host_array
from jaxprune._kernels.ranked import Pointwise, Ranked
from jaxprune._kernels.sharding import placed
from jaxprune._origins import remember
from jaxprune._text import shown
from jaxprune._tree import Leaf, as_array, is_array, is_prunable, leaves, node, rebuild


@node()
@dataclass(frozen=True, slots=True)
class L1:
    """The magnitude |w|, in the dtype of the weight."""


@node()
@dataclass(frozen=True, slots=True)
class L2:
    """The square w^2, correctly rounded: to float64 for float64 weights, to float32 for others.

    Squares too small for a normal number keep their order even where the backend flushes such
    numbers to zero.
    """


@node()
@dataclass(frozen=True, slots=True)
class TaylorProxy:
    """The square w^2: Taylor importance (w * g)^2 with every gradient taken as 1.

    The scores are those of `L2`; the reference keeps both names.
    """


@node("key")
@dataclass(frozen=True, slots=True)
class Random:
    """Uniform in [0, 1), float32, independent for every leaf: the baseline to beat.

    A leaf's scores depend on the key and on its path alone, so that leaves added elsewhere change
    nothing.

    Attributes:
        key: A PRNG key: `jax.random.key(0)`, or the older `jax.random.PRNGKey(0)`.

    Examples:
        >>> import jax, jaxprune as jp
        >>> jp.importance(jax.numpy.ones((2, 2)), jp.Random(jax.random.key(0))).shape
        (2, 2)
    """

    key: jax.Array


@node()
@dataclass(frozen=True, slots=True)
class LCG:
    """The reference's random scores: its 64-bit linear congruential generator, bit for bit.

    Every leaf reads the stream of `seed` from its start in row-major order, as the reference does
    for every tensor. Values are float32 in [0, 1].

    Attributes:
        seed: A Python integer in [0, 2**64).
    """

    seed: int

    def __post_init__(self) -> None:
        lcg.check_seed(self.seed)


@node("grads")
@dataclass(frozen=True, slots=True)
class Taylor:
    """The magnitude |w * g|: the change of the loss without the weight, to first order.

    Molchanov et al., "Importance estimation for neural network pruning", 2019. In training,
    `sparsify(..., metric=jp.averaged(jp.Taylor))` averages it over the updates.

    Attributes:
        grads: The gradients of the loss, a tree like the parameters.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxprune as jp
        >>> params = {"kernel": jnp.array([4.0, 1.0, -2.0])}
        >>> grads = jax.grad(lambda p: jnp.sum(p["kernel"] ** 2))(params)
        >>> jp.importance(params, jp.Taylor(grads))
        {'kernel': Array([32.,  2.,  8.], dtype=float32)}
    """

    grads: Any


@node("grads")
@dataclass(frozen=True, slots=True)
class Fisher:
    """The square (w * g)^2: the same change by the diagonal of the empirical Fisher information.

    Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018: their mean
    over examples is `averaged(jp.Fisher)` over updates.

    Attributes:
        grads: The gradients of the loss, a tree like the parameters.
    """

    grads: Any


@node("grads")
@dataclass(frozen=True, slots=True)
class Movement:
    """The product -w * g: above 0 where a step of gradient descent moves the weight away from zero.

    Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning", 2020, who add it up over
    training, as `averaged(jp.Movement)` does.

    Attributes:
        grads: The gradients of the loss, a tree like the parameters.
    """

    grads: Any


OfGradients: TypeAlias = Taylor | Fisher | Movement
Metric: TypeAlias = (
    L1 | L2 | TaylorProxy | Random | LCG | OfGradients | Callable[[jax.Array], jax.Array]
)


def importance(params: Any, metric: Metric) -> Any:
    """Scores every weight: the higher, the more important.

    Args:
        params: Any tree of arrays.
        metric: `L1()`, `L2()`, `TaylorProxy()`, `Random(key)`, `LCG(seed)`; of gradients
            `Taylor(grads)`, `Fisher(grads)`, `Movement(grads)`; of data `Wanda(stats)`; or a
            function that maps an array of weights to an array of scores of the same shape.

    Returns:
        A tree like `params` that holds scores where it holds floats, and None where it holds
        anything else, or a leaf of which the metric's stats know nothing.

    Raises:
        NoMatch: `params` holds no floating leaf.
        PruningError: `metric` is not a metric, or its scores have the wrong shape.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> jp.importance({"kernel": jnp.array([-3.0, 2.0]), "step": 7}, jp.L1())
        {'kernel': Array([3., 2.], dtype=float32), 'step': None}
    """
    params_leaves = leaves(params)
    floats = [
        Leaf(leaf.path, as_array(leaf.value)) for leaf in params_leaves if is_prunable(leaf.value)
    ]
    if not floats:
        raise NoMatch(
            f"there is nothing to score: none of the tree's {len(params_leaves)} leaves is a "
            "floating array. Pass parameters, for example `variables['params']` or "
            "`nnx.state(model, nnx.Param)`."
        )
    known = [leaf for leaf in floats if is_scored(metric, leaf)] or floats
    scores = dict(zip((leaf.path for leaf in known), _written_out(metric, known), strict=True))
    return rebuild(
        params,
        [scores.get(leaf.path) if is_prunable(leaf.value) else None for leaf in params_leaves],
    )


def ranked_by(metric: Metric, weights: Sequence[Leaf]) -> list[Ranked]:
    """How the weights of leaves rank: pointwise scores are computed where they are counted.

    Args:
        metric: The metric.
        weights: Leaves that hold floating arrays.
    """
    score = pointwise(metric)
    if score is not None:
        return [Ranked(as_array(leaf.value), score) for leaf in weights]
    ready = [Leaf(leaf.path, as_array(leaf.value)) for leaf in weights]
    return [Ranked(scores) for scores in scores_of(metric, ready)]


def _written_out(metric: Metric, weights: Sequence[Leaf]) -> list[jax.Array]:
    """The scores of leaves as arrays."""
    score = pointwise(metric)
    if score is None:
        return scores_of(metric, weights)
    if not all(is_host_array(leaf.value) for leaf in weights):
        return [remember(score.compiled(leaf.value), Ranked(leaf.value, score)) for leaf in weights]
    # With nothing to compile: a tree has leaves of many shapes, each of which would be.
    return [from_host(score.host(np.asarray(leaf.value)), leaf.value) for leaf in weights]


@functools.singledispatch
def pointwise(metric: Any) -> Pointwise | None:
    """The metric as a function of each weight alone, for kernels; None if it is not one."""
    del metric
    return None


@functools.singledispatch
def is_scored(metric: Any, leaf: Leaf) -> bool:
    """Whether `importance` has a score for a leaf: whether the metric knows of it."""
    del metric, leaf
    return True


@functools.singledispatch
def scores_of(metric: Any, weights: Sequence[Leaf]) -> list[jax.Array]:
    """The scores of leaves that hold floating arrays, one array a leaf, of its shape.

    Register a class here to make it a metric.
    """
    if isinstance(metric, type) or not callable(metric):
        hint = ""
        if isinstance(metric, type):
            name = metric.__name__
            fields = dataclasses.fields(metric) if dataclasses.is_dataclass(metric) else ()
            call = (
                f"{name}({', '.join(f.name for f in fields if f.default is dataclasses.MISSING)})"
            )
            if metric in get_args(OfGradients):
                call += f", or in training jp.averaged(jp.{name})"
            hint = f"{name} is a class: write {call}."
        raise PruningError(
            f"expected a metric such as jp.L1(), or a function from weights to scores, got "
            f"{shown(metric)}. {hint}".rstrip()
        )
    scores = [metric(leaf.value) for leaf in weights]
    raise_problems(
        _no_scores(metric, leaf, score) for leaf, score in zip(weights, scores, strict=True)
    )
    return scores


@scores_of.register
def _(metric: Random, weights: Sequence[Leaf]) -> list[jax.Array]:
    key = one_key(metric.key, "jp.Random(jax.random.key(0))")
    salts = [np.uint32(zlib.crc32(leaf.path.encode())) for leaf in weights]
    return [
        placed(_uniform(jax.random.fold_in(key, salt), leaf.value.shape), leaf.value)
        for salt, leaf in zip(salts, weights, strict=True)
    ]


@scores_of.register
def _(metric: LCG, weights: Sequence[Leaf]) -> list[jax.Array]:
    return [placed(lcg.uniform(metric.seed, leaf.value.shape), leaf.value) for leaf in weights]


@scores_of.register
def _(metric: Taylor, weights: Sequence[Leaf]) -> list[jax.Array]:
    return [jnp.abs(product) for product in _products(metric, weights)]


@scores_of.register
def _(metric: Fisher, weights: Sequence[Leaf]) -> list[jax.Array]:
    return [_square(product) for product in _products(metric, weights)]


@scores_of.register
def _(metric: Movement, weights: Sequence[Leaf]) -> list[jax.Array]:
    return [-product for product in _products(metric, weights)]


@jax.jit
def _square(weights: jax.Array) -> jax.Array:
    return square(weights.astype(jnp.promote_types(weights.dtype, jnp.float32)))


def _square_on_host(weights: host.Array) -> host.Array:
    wide = np.float64 if weights.dtype == np.float64 else np.float32
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.square(weights.astype(wide))


_MAGNITUDE = Pointwise(jax.jit(jnp.abs), host.magnitudes)
_SQUARE = Pointwise(_square, _square_on_host)


@pointwise.register
def _(metric: L1) -> Pointwise:
    del metric
    return _MAGNITUDE


@pointwise.register(L2)
@pointwise.register(TaylorProxy)
def _(metric: L2 | TaylorProxy) -> Pointwise:
    del metric
    return _SQUARE


@scores_of.register(L1)
@scores_of.register(L2)
@scores_of.register(TaylorProxy)
def _(metric: L1 | L2 | TaylorProxy, weights: Sequence[Leaf]) -> list[jax.Array]:
    score = pointwise(metric)
    assert score is not None
    return [score.compiled(leaf.value) for leaf in weights]


@functools.partial(jax.jit, static_argnums=1)
def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32)


def _products(metric: OfGradients, weights: Sequence[Leaf]) -> list[jax.Array]:
    """Each leaf times its gradients, which are found by its path."""
    gradients = {leaf.path: leaf.value for leaf in leaves(metric.grads)}
    name = type(metric).__name__
    raise_problems(_misfit(name, leaf, gradients.get(leaf.path)) for leaf in weights)
    return [_product(leaf.value, as_array(gradients[leaf.path])) for leaf in weights]


def _product(weights: jax.Array, grads: jax.Array) -> jax.Array:
    # Two small float16 numbers have a product that float16 cannot tell from zero.
    wide = jnp.promote_types(jnp.promote_types(weights.dtype, grads.dtype), jnp.float32)
    return weights.astype(wide) * grads.astype(wide)


def _misfit(name: str, leaf: Leaf, grads: Any) -> Problem | None:
    if is_prunable(grads) and grads.shape == leaf.value.shape:
        return None
    return Problem(
        StructureMismatch,
        f"{leaf.name} has shape {tuple(leaf.value.shape)}, and its gradients are {_what(grads)}: "
        f"{name}(grads) takes those that jax.grad gives for the same parameters.",
    )


def _no_scores(metric: Any, leaf: Leaf, scores: Any) -> Problem | None:
    if is_prunable(scores) and scores.shape == leaf.value.shape:
        return None
    return Problem(
        PruningError,
        f"the metric {shown(metric)} must return floating scores of the shape of its weights: "
        f"{leaf.name} has shape {leaf.value.shape}, and got {_what(scores)}.",
    )


def one_key(key: Any, remedy: str) -> jax.Array:
    """A PRNG key, typed or of the older kind, if it is one and not several."""
    typed = is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if typed and not key.shape:
        return key
    if is_array(key) and key.dtype == jnp.uint32 and key.shape in ((2,), (4,)):  # PRNGKey makes it
        return key
    raise PruningError(
        f"expected one PRNG key, got {_what(key)}: write {remedy}; use vmap for several keys."
    )


def _what(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if is_array(value) else shown(value)

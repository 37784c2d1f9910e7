"""The kinds of work, and who else does them.

A row builds its arrays when it is measured. The bounds are ratios of jaxprune's time to the
rival's, set on a CPU with two cores: a `must` is a promise, an `aim` a wish.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxprune as jp
from benchmarks import compiling, first_calls, memory, networks, solving, training, zeros
from benchmarks.race import Contender, Line, Row, race

Host: TypeAlias = np.ndarray[Any, Any]

_SHAPE = (2048, 2048)
_SIZE = 2048 * 2048
_GLOBAL = jp.Unstructured(0.5, per="global")
_UNITS = (jp.Rows(0.5), jp.Columns(0.5), jp.Channels(0.5, axis=-1), jp.Block(0.5, (16, 16)))


def all_rows() -> list[Row]:
    """Every row, in the order in which the table shows them."""
    return [
        *(_unstructured(sparsity, "score to mask") for sparsity in (0.5, 0.9)),
        *(_unstructured(sparsity, "selection alone") for sparsity in (0.5, 0.9)),
        *(_values(kind, sparsity) for kind in _VALUES for sparsity in (0.5, 0.9)),
        *(_awkward(shape) for shape in ((2047, 2049), (4194305,))),
        *(_per_axis(axis) for axis in (-1, 0)),
        *(_bfloat16(sparsity) for sparsity in (0.5, 0.9)),
        Row("global budget over ResNet-50", _global),
        *first_calls.rows(),
        *compiling.rows(),
        *memory.rows(),
        *(_nm(2, 4, axis) for axis in (-1, -2)),
        *(_nm(n, 2 * n, -1) for n in (4, 8, 16)),
        *(_units(spec) for spec in _UNITS),
        Row("importance(w, LCG(0))", _lcg),
        Row("apply_mask", _apply_mask),
        Row("report, with a mask", _report),
        *training.rows(),
        *zeros.rows(),
        *solving.rows(),
    ]


# --- exactly so many of the lowest ----------------------------------------------------------------


def _unstructured(sparsity: float, work: str) -> Row:
    """From weights to a mask, or from their scores; of the rivals each does the same."""
    score: Callable[[Any], Any] = abs if work == "score to mask" else lambda scores: scores

    def measure(rounds: int) -> list[Line]:
        host = _normals() if score is abs else abs(_normals())
        given, spec, name = jnp.asarray(host), jp.Unstructured(sparsity), "jaxprune"
        ours = Contender(name, lambda: jp.make_mask(given, spec))
        rivals = [
            _argpartition(sparsity, host, score),
            _argsort(sparsity, given, score),
            _partition(sparsity, host),
        ]
        if score is abs:
            ours, rivals = _score_to_mask(spec, given), [*rivals, _torch(sparsity, host)]
        return race(ours, rivals, rounds)

    return Row(f"Unstructured({sparsity}), {work}", measure)


def _argpartition(sparsity: float, host: Host, score: Callable[[Any], Any]) -> Contender:
    count = int(sparsity * _SIZE)

    def run() -> Host:
        mask = np.ones(_SIZE, bool)
        mask[np.argpartition(score(host).reshape(-1), count)[:count]] = False
        return mask.reshape(_SHAPE)

    return Contender("NumPy argpartition", run, must=1, on_host=True)


def _argsort(sparsity: float, given: jax.Array, score: Callable[[Any], Any]) -> Contender:
    count = int(sparsity * _SIZE)

    @jax.jit
    def run(given: jax.Array) -> jax.Array:
        order = jnp.argsort(score(given).reshape(-1))
        return jnp.ones(_SIZE, bool).at[order[:count]].set(False).reshape(_SHAPE)

    return Contender("jnp.argsort", lambda: run(given), must=1 / 60)


def _partition(sparsity: float, host: Host) -> Contender:
    """NumPy's SIMD quickselect: it finds a threshold and no more, a lower bound."""
    flat, count = abs(host).reshape(-1), int(sparsity * _SIZE)
    name = "np.partition, value only"
    return Contender(name, lambda: np.partition(flat, count), aim=1.5, on_host=True)


def _torch(sparsity: float, host: Host) -> Contender:
    def fresh() -> tuple[Any, ...]:
        import torch

        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(torch.from_numpy(host.copy()))
        return (module,)

    def run(module: Any) -> None:
        from torch.nn.utils import prune

        prune.l1_unstructured(module, "weight", amount=sparsity)

    name = "torch l1_unstructured"
    return Contender(name, run, must=1 / 10, prepare=fresh, module="torch", on_host=True)


_VALUES: dict[str, Callable[[], Any]] = {
    "rounded to 0.01": lambda: np.round(_normals(), 2),
    "all equal": lambda: np.full(_SHAPE, 0.5, np.float32),
    "half zeros": lambda: _normals() * (np.random.default_rng(1).random(_SHAPE) < 0.5),
    "Cauchy": lambda: np.random.default_rng(0).standard_cauchy(_SHAPE).astype(np.float32),
}


def _beside_usual(
    name: str,
    spec: Any,
    values: Callable[[], Any],
    usual: str,
    *,
    must: float | None = None,
    aim: float | None = None,
) -> Row:
    """jaxprune against itself: another spec or other values, beside one leaf of normal weights."""

    def measure(rounds: int) -> list[Line]:
        rival = _score_to_mask(jp.Unstructured(spec.sparsity), jnp.asarray(_normals()))
        ours = _score_to_mask(spec, jnp.asarray(values()))
        return race(ours, [rival._replace(name=usual, must=must, aim=aim)], rounds)

    return Row(name, measure)


def _values(kind: str, sparsity: float) -> Row:
    name, spec = f"Unstructured({sparsity}), {kind}", jp.Unstructured(sparsity)
    return _beside_usual(name, spec, _VALUES[kind], "normal values", must=2.5, aim=1.5)


def _awkward(shape: tuple[int, ...]) -> Row:
    """Odd lengths, which cannot be folded into short runs as the selection would like."""
    name, values = f"Unstructured(0.5), shape {shape}", np.random.default_rng(0).standard_normal
    return _beside_usual(
        name, jp.Unstructured(0.5), lambda: values(shape, np.float32), "shape (2048, 2048)"
    )


def _per_axis(axis: int) -> Row:
    name, spec = f"Unstructured(0.5, per={axis})", jp.Unstructured(0.5, per=axis)
    return _beside_usual(name, spec, _normals, "per='leaf'", must=1.2, aim=0.8)


def _bfloat16(sparsity: float) -> Row:
    name, spec = f"Unstructured({sparsity}), bfloat16", jp.Unstructured(sparsity)
    return _beside_usual(name, spec, _half_precision, "float32", must=0.7, aim=0.5)


def _half_precision() -> Host:
    return _normals().astype(jnp.bfloat16)


def _global(rounds: int) -> list[Line]:
    params = networks.filled("ResNet-50")
    ours = _score_to_mask(_GLOBAL, params)
    leaf = _score_to_mask(jp.Unstructured(0.5), jnp.asarray(_normals()))
    size = networks.size_in_scope(params)
    wide = np.random.default_rng(0).standard_normal((size // 2048, 2048), np.float32)
    large = _score_to_mask(jp.Unstructured(0.5), jnp.asarray(wide))
    rivals = [
        leaf._replace(name="one leaf, per weight", must=1.3, aim=1.0, weights=_SIZE),
        # Which leaves the caches as the network does.
        large._replace(name="one leaf of as many weights, per weight", weights=wide.size),
    ]
    return race(ours._replace(weights=size), rivals, rounds)


# --- patterns -------------------------------------------------------------------------------------


def _nm(n: int, m: int, axis: int) -> Row:
    """The bounds are for 2:4; wider groups must only not be slower than `lax.top_k`."""

    @jax.jit
    def top_k(weights: jax.Array) -> jax.Array:
        groups = jnp.moveaxis(abs(weights), axis, -1).reshape(-1, m)
        kept = jax.nn.one_hot(lax.top_k(groups, n)[1], m, dtype=bool).any(-2)
        return jnp.moveaxis(kept.reshape(_SHAPE), -1, axis)

    def measure(rounds: int) -> list[Line]:
        weights = jnp.asarray(_normals())
        bare = jax.jit(lambda weights: abs(weights) > 0.5)
        musts = (1 / 20, 10) if m == 4 else (1, None)
        rivals = [
            Contender("lax.top_k + one-hot", lambda: top_k(weights), musts[0]),
            Contender("a bare |x| > t", lambda: bare(weights), musts[1], aim=4),
        ]
        # The rivals are compiled whole, and so are we.
        spec = jp.NM(n, m, axis=axis)
        whole = jax.jit(lambda weights: jp.make_mask(jp.importance(weights, jp.L1()), spec))
        return race(Contender("jaxprune", lambda: whole(weights)), rivals, rounds)

    return Row(f"NM({n}, {m}, axis={axis}), score to mask in one jit", measure)


def _units(spec: Any) -> Row:
    def measure(rounds: int) -> list[Line]:
        scores = jnp.asarray(abs(_normals()))
        row_sum = jax.jit(functools.partial(jnp.sum, axis=1))
        rival = Contender("a bare row sum", lambda: row_sum(scores), must=5, aim=2)
        ours = Contender("jaxprune", lambda: jp.make_mask(scores, spec))
        return race(ours, [rival], rounds)

    return Row(f"{type(spec).__name__}(0.5), selection alone", measure)


# --- passes over memory ---------------------------------------------------------------------------


def _lcg(rounds: int) -> list[Line]:
    weights, key = jnp.asarray(_normals()), jax.random.key(0)
    uniform = jax.jit(lambda key: jax.random.uniform(key, _SHAPE))
    rival = Contender("jax.random.uniform", lambda: uniform(key), must=2, aim=1)
    return race(Contender("jaxprune", lambda: jp.importance(weights, jp.LCG(0))), [rival], rounds)


def _apply_mask(rounds: int) -> list[Line]:
    weights, mask = jp.prune(jnp.asarray(_normals()), 0.5)
    return _beside_doubling(weights, lambda: jp.apply_mask(weights, mask), rounds)


def _report(rounds: int) -> list[Line]:
    weights, mask = jp.prune(jnp.asarray(_normals()), 0.5)
    # Its numbers have been read back, and leave nothing to wait for.
    return _beside_doubling(weights, lambda: str(jp.report(weights, mask)), rounds)


def _beside_doubling(weights: jax.Array, run: Callable[[], Any], rounds: int) -> list[Line]:
    double = jax.jit(lambda weights: weights * 2)
    rival = Contender("a bare x * 2", lambda: double(weights))
    return race(Contender("jaxprune", run), [rival], rounds)


def _score_to_mask(spec: Any, params: Any) -> Contender:
    """What a user writes."""
    return Contender("jaxprune", lambda: jp.make_mask(jp.importance(params, jp.L1()), spec))


@functools.cache
def _normals() -> Host:
    return np.random.default_rng(0).standard_normal(_SHAPE, np.float32)

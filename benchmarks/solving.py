"""What SparseGPT costs, beside its authors' algorithm in PyTorch and in NumPy's float64."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks.fresh import CPU, SECONDS, ask, first
from benchmarks.race import Contender, Line, Row, race, seconds
from jaxprune.calibration._sparsegpt import SparseGPT
from tests.calibration import statements

_SHAPES = ((512, 512), (2048, 2048), (4096, 1024))
_BLOCK = 128


class _Kind(NamedTuple):
    """A sparsity: as jaxprune's spec, and what the two others need of it."""

    spec: Any
    choose: Callable[[Any, int], Any]
    sparsity: float = 0.0
    gone: int = 0
    group: int | None = None


_KINDS = {
    "50 %": _Kind(jp.Unstructured(0.5), statements.lowest_of_leaf(0.5), sparsity=0.5),
    "60 %": _Kind(jp.Unstructured(0.6), statements.lowest_of_leaf(0.6), sparsity=0.6),
    "2:4": _Kind(jp.NM(2, 4, axis="input"), statements.highest_of_groups(2), gone=2, group=4),
    "4:8": _Kind(jp.NM(4, 8, axis="input"), statements.highest_of_groups(4), gone=4, group=8),
}


def rows() -> list[Row]:
    """Every size at every sparsity, and the first call."""
    return [
        *(_row(shape, name) for shape in _SHAPES for name in _KINDS),
        *(_first(name) for name in ("50 %", "2:4")),
    ]


@functools.cache
def layer(outputs: int, inputs: int) -> tuple[Any, Any, int]:
    """Weights [out, in], and the sums of products of inputs that are correlated, of as many rows.

    They are rectified mixtures of few sources, as activations are.
    """
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(outputs, inputs)) / math.sqrt(inputs)
    count, sources = 4 * inputs, inputs // 4
    mixed = rng.normal(size=(count, sources)) @ rng.normal(size=(sources, inputs))
    noise = rng.normal(size=(count, inputs)) / 4
    x = np.maximum(mixed / math.sqrt(sources) + noise + rng.normal(size=inputs) / 2, 0)
    x = x.astype(np.float32)
    return weights.astype(np.float32), x.T @ x, count


def _row(shape: tuple[int, int], name: str) -> Row:
    kind = _KINDS[name]

    def measure(rounds: int) -> list[Line]:
        weights, gram, count = layer(*shape)
        given = jnp.asarray(weights)[None], jnp.asarray(gram)[None]
        ours = Contender("jaxprune", lambda: SparseGPT().solve(*given, count, kind.spec))
        expected: list[Any] = []

        def state() -> None:
            expected[:] = statements.sparsegpt(
                weights, gram, count, kind.choose, group=kind.group, block=_BLOCK
            )

        lines = race(
            ours,
            [
                _torch(weights, gram, count, kind),
                Contender("NumPy float64", state, on_host=True, warm_up=0),
            ],
            rounds,
        )
        new, kept = (np.asarray(x[0]) for x in ours.run())
        mine, best = (statements.layer_errors(w, weights, gram).sum() for w in (new, expected[0]))
        differ = np.count_nonzero(kept != expected[1])
        return [
            *lines,
            Line(f"{mine:.8g}", "the error of NumPy's", f"{best:.8g}", mine / best, must=1 + 1e-5),
            Line(f"{differ} differ", "of all weights", f"{kept.size}", differ / kept.size),
        ]

    return Row(f"SparseGPT of {shape[0]} x {shape[1]}, {name}", measure)


def _torch(weights: Any, gram: Any, count: int, kind: _Kind) -> Contender:
    def fresh() -> tuple[Any, ...]:
        import torch

        return torch.from_numpy(weights.copy()), torch.from_numpy(gram * np.float32(2 / count))

    return Contender(
        "torch, the authors' algorithm",
        functools.partial(in_torch, sparsity=kind.sparsity, gone=kind.gone, group=kind.group),
        must=1 / 5,
        prepare=fresh,
        module="torch",
        on_host=True,
        warm_up=0,
    )


def in_torch(
    weights: Any, hessian: Any, *, sparsity: float, gone: int, group: int | None
) -> tuple[Any, Any]:
    """The authors' algorithm, eagerly, as they run it: new weights [out, in] and what is kept."""
    import torch

    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    weights[:, dead] = 0
    diagonal += 0.01 * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    root = torch.linalg.cholesky(inverse, upper=True)
    kept = torch.ones_like(weights, dtype=torch.bool)
    for start in range(0, weights.shape[1], _BLOCK):
        columns = slice(start, start + _BLOCK)
        now, stay, part = weights[:, columns].clone(), kept[:, columns], root[columns, columns]
        errors = torch.zeros_like(now)
        if group is None:
            scores = now**2 / part.diagonal() ** 2
            stay[:] = scores > scores.flatten().sort()[0][int(scores.numel() * sparsity)]
        for i in range(now.shape[1]):
            if group is not None and i % group == 0:
                scores = now[:, i : i + group] ** 2 / part.diagonal()[i : i + group] ** 2
                stay[:, i : i + group].scatter_(
                    1, scores.topk(gone, dim=1, largest=False).indices, False
                )
            column = now[:, i]
            solved = column.where(stay[:, i], 0)
            error = (column - solved) / part[i, i]
            now[:, i:] -= error[:, None] @ part[i : i + 1, i:]
            now[:, i] = solved
            errors[:, i] = error
        weights[:, columns] = now
        weights[:, start + _BLOCK :] -= errors @ root[columns, start + _BLOCK :]
    return weights, kept


# --- in a fresh process ---------------------------------------------------------------------------


def _first(name: str) -> Row:
    def measure(rounds: int) -> list[Line]:
        del rounds
        found = ask(first_call, name)
        ours = f"{seconds(found[SECONDS])} (CPU {seconds(found[CPU])})"
        return [Line(ours, "one second", "1 s", found[SECONDS], must=8)]

    return Row(f"first SparseGPT of 2048 x 2048, {name}", measure, fresh=True)


def first_call(name: str) -> dict[str, float]:
    """SparseGPT of a leaf, from nothing compiled."""
    weights, gram, count = layer(2048, 2048)
    given = jax.device_put((weights[None], gram[None]))
    return first(lambda: SparseGPT().solve(*given, count, _KINDS[name].spec))

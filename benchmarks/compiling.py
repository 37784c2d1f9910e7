"""What `sparsify` adds to the compilation of a training step, and to the first `init`."""

import functools
import statistics
from typing import Any

import jax
import optax

import jaxprune as jp
from benchmarks import networks
from benchmarks.fresh import CPU, SECONDS, ask, first
from benchmarks.race import Line, Row, seconds

_TIMES = 3
_LONG = 10**6

_KINDS: dict[str, Any] = {
    "per leaf": functools.partial(jp.sparsify, spec=0.5, schedule=jp.gradual(0, _LONG, 100)),
    "global": functools.partial(
        jp.sparsify,
        spec=jp.Unstructured(0.5, per="global"),
        schedule=jp.gradual(0, _LONG, 100),
    ),
    "RigL": functools.partial(
        jp.sparsify, spec=0.5, schedule=jp.constant(0, _LONG, 100), rule=jp.rigl()
    ),
}


def rows() -> list[Row]:
    """An update of Adam, compiled, and the state before the first."""
    resnet, vit = "ResNet-50", "ViT-B/16"
    return [
        *(_row(resnet, kind, compile_step, 8, 3) for kind in _KINDS),
        _row(resnet, "per leaf", first_init, 8, 3),
        *(_row(vit, kind, compile_step, 5, 2) for kind in ("per leaf", "global")),
        _row(vit, "per leaf", first_init, 5, 2),
    ]


def _row(network: str, kind: str, measured: Any, must: float, aim: float) -> Row:
    def measure(rounds: int) -> list[Line]:
        times = range(min(rounds, _TIMES))
        runs = [(ask(measured, network, kind), ask(measured, network, "plain")) for _ in times]
        (ours, cpu), (plain, plain_cpu) = (
            [statistics.median(run[i][what] for run in runs) for what in (SECONDS, CPU)]
            for i in (0, 1)
        )
        more = statistics.median(run[SECONDS] - plain[SECONDS] for run, plain in runs)
        return [
            Line(
                ours=f"{seconds(ours)} (CPU {seconds(cpu)})",
                rival="seconds more than plain Adam",
                theirs=f"{seconds(plain)} (CPU {seconds(plain_cpu)})",
                ratio=more,
                must=must,
                aim=aim,
            )
        ]

    what = "first init" if measured is first_init else "compiling a step"
    return Row(f"{what} of Adam, {network}, {kind}", measure, fresh=True)


# --- in a fresh process ---------------------------------------------------------------------------


def compile_step(network: str, kind: str) -> dict[str, float]:
    """The compilation of one update, with gradients as an argument."""
    tx, params = _optimizer(kind), networks.shapes(network)

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    return first(lambda: [step.lower(params, state, params).compile(), 0][1])


def first_init(network: str, kind: str) -> dict[str, float]:
    """The first state, eagerly."""
    tx, params = _optimizer(kind), networks.filled(network)
    return first(lambda: tx.init(params))


def _optimizer(kind: str) -> Any:
    adam = optax.adam(1e-3)
    return adam if kind == "plain" else _KINDS[kind](adam)

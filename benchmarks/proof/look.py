"""Looks at masks: what each layer keeps under each budget, and what AC/DC's phases change.

python -m benchmarks.proof.look --model mlp --steps 2000
"""

import argparse
import functools

import jax
import jax.numpy as jnp

import jaxprune as jp
from benchmarks.proof.methods import BUDGETS, METHODS, OPTIMIZERS, Training, phases
from benchmarks.proof.models import MODELS


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sparsity", type=float, default=0.98)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    options = parser.parse_args()
    training = Training(MODELS[options.model](), options.steps, options.optimizer)
    key = jax.random.key(0)
    shapes = jax.eval_shape(training.start, key)
    gradual = jax.jit(functools.partial(METHODS["gradual"].go, training))
    for budget in ("uniform", "erk", "global"):
        params, _ = gradual(key, (), BUDGETS[budget](shapes, options.sparsity))
        print(f"\nGradual pruning, {budget}:\n{jp.report(params)}")
    for before, after, shared in _changes(training, key, BUDGETS["erk"](shapes, options.sparsity)):
        print(f"AC/DC's mask of step {after} has {shared:.1%} of that of step {before}")


def _changes(training, key, spec):
    """How much of the mask of a sparse phase is in the next one's."""

    def wrap(tx):
        return jp.sparsify(tx, spec, schedule=phases(training.steps), rule=jp.acdc())

    tenth = training.steps // 10
    before = None
    for count in (1 * tenth, 3 * tenth, 5 * tenth, 7 * tenth):  # where sparse phases begin
        fit = jax.jit(functools.partial(training.fit, wrap=wrap, end=count))
        params = fit(training.start(key), key)
        now = jp.mask_from_zeros(params)
        if before is not None:
            both = _count(jax.tree.map(jnp.logical_and, before, now))
            yield count - 2 * tenth, count, both / _count(before)
        before = now


def _count(mask):
    return sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask))


if __name__ == "__main__":
    main()

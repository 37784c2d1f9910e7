"""Trains a model by every method, over seeds and sparsities, and saves what came out.

python -m benchmarks.proof --model mlp --steps 2000 --seeds 3 --save mlp.json
"""

import argparse
import functools
import json
import pathlib
import time

import jax
import numpy as np

import jaxprune as jp
from benchmarks.proof.methods import BUDGETS, METHODS, ONLY, OPTIMIZERS, Training
from benchmarks.proof.models import MODELS


def main():
    options = _options()
    task = MODELS[options.model]()
    training = Training(task, options.steps, options.optimizer)
    head = {"model": options.model, "steps": options.steps, "optimizer": options.optimizer}
    head |= {"unit": task.unit, "higher_is_better": task.higher_is_better}
    keys = [jax.random.key(seed) for seed in range(options.seeds)]

    @functools.cache  # what methods begin with alike is trained once
    def begun(begin):
        begin = jax.jit(functools.partial(begin, training))
        return [begin(key) for key in keys]

    rows = []
    for name in options.methods:
        method = METHODS[name]
        sparsities = ONLY.get(method.budget, options.sparsities)
        for row in _rows(method, training, keys, begun(method.begin), sparsities):
            rows.append({"method": name} | row)
            print(_line(rows[-1]), flush=True)
            if options.save:
                lines = ",\n".join(map(json.dumps, rows))
                options.save.write_text(f'{json.dumps(head)[:-1]}, "rows": [\n{lines}\n]}}\n')


def _options():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proof", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.9])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    parser.add_argument("--save", type=pathlib.Path, help="a file of JSON")
    options = parser.parse_args()
    options.sparsities.sort()  # a lottery ticket goes from one to the next
    return options


def _rows(method, training, keys, shared, sparsities):
    """What a method comes to at each sparsity, seed by seed."""
    go = jax.jit(functools.partial(method.go, training))
    measure = jax.jit(training.task.measure)
    shapes = jax.eval_shape(training.start, keys[0])
    for sparsity in sparsities:
        began = time.perf_counter()
        spec = BUDGETS[method.budget](shapes, sparsity)
        ran = [go(key, one, spec) for key, one in zip(keys, shared, strict=True)]
        shared = [handed for _, handed in ran]
        found = [round(float(measure(params)), 4) for params, _ in ran]
        yield {
            "sparsity": sparsity,
            "zeros": round(min(jp.report(params).pruned.sparsity for params, _ in ran), 4),
            "found": found,
            "seconds": round(time.perf_counter() - began, 1),
        }


def _line(row):
    mean, spread = np.mean(row["found"]), np.ptp(row["found"]) / 2
    return (
        f"{row['method']:18} {row['sparsity']:5.0%} {mean:8.3f} ±{spread:6.3f}  "
        f"{row['zeros']:7.2%} zeros  {row['seconds']:6.1f} s"
    )


if __name__ == "__main__":
    main()

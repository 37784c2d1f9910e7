"""Prunes trained models once, with data and without, and saves what is left, over seeds.

python -m benchmarks.proof.with_data --model text --steps 10000 --seeds 3 --save text-with-data.json
"""

import argparse
import functools
import json
import pathlib
import pickle
import time
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from benchmarks.proof.methods import Training
from benchmarks.proof.models import MODELS

_BATCHES = 32  # of the training data, to calibrate with
_TUNED = 100  # steps of fine-tuning,
_SLOWER = 10  # at a tenth of the rate

# Columns: what each output, or each leaf, loses.
SPARSITIES: dict[str, Any] = {"50 %": 0.5, "60 %": 0.6, "70 %": 0.7, "2:4": (2, 4), "4:8": (4, 8)}


def _magnitude(per):
    def prune(task, params, batches, sparsity, where):
        spec = _spec(sparsity, per)
        uses = jp.trace(task.loss, params, *batches[0])
        return jp.prune(params, spec, where=where, uses=uses)

    return prune


def _with_data(method, per, order="sequential"):
    def prune(task, params, batches, sparsity, where):
        return jp.prune_with_data(
            task.loss,
            params,
            batches,
            _spec(sparsity, per),
            where=where,
            method=method,
            order=order,
        )

    return prune


def _by_lamp(task, params, batches, sparsity, where):
    return jp.prune(params, jp.allocate(params, sparsity, "lamp", where=where), where=where)


def _by_ria(task, params, batches, sparsity, where):
    """Zhang et al., 2024: Wanda with a weight's shares of its input's and its output's weights.

    The root of the input's norm is their exponent of 0.5.
    """
    stats = jp.calibrate(task.loss, params, batches, where=where)
    uses = jp.trace(task.loss, params, *batches[0])
    axes = {leaf.path: (leaf.input_axes, leaf.output_axes) for leaf in stats.leaves}

    def scores(path, leaf):
        name = "/".join(str(key.key) for key in path)
        if name not in axes:
            return None
        w = np.abs(np.asarray(leaf))
        shares = sum(w / w.sum(each, keepdims=True) for each in axes[name])
        return shares * np.asarray(stats.squares[name]) ** 0.25

    scored = jax.tree_util.tree_map_with_path(scores, params)
    mask = jp.make_mask(scored, _spec(sparsity, "output"), uses=uses)
    return jp.apply_mask(params, mask), mask


def _by_owl(task, params, batches, sparsity, where):
    """Wanda at once, but for what each layer loses: of the transformer, each block."""
    stats = jp.calibrate(task.loss, params, batches, where=where)
    shares = jp.allocate(
        params, sparsity, jp.OWL(layer=lambda path: path.split("/")[0]), where=where, stats=stats
    )
    specs = jax.tree.map(lambda share: jp.Unstructured(share, per="output"), shares)
    uses = jp.trace(task.loss, params, *batches[0])
    return jp.prune(params, specs, metric=jp.Wanda(stats), where=where, uses=uses)


METHODS = {
    "magnitude": _magnitude("leaf"),
    "magnitude, per output": _magnitude("output"),
    "Wanda, at once": _with_data(jp.Wanda, "output", "at_once"),
    "Wanda": _with_data(jp.Wanda, "output"),
    "RIA, at once": _by_ria,
    "SparseGPT, at once": _with_data(jp.SparseGPT(), "leaf", "at_once"),
    "SparseGPT": _with_data(jp.SparseGPT(), "leaf"),
    "magnitude, refitted": _with_data(jp.Refit(by=jp.L1()), "leaf"),
    "Wanda, refitted": _with_data(jp.Refit(by=jp.Wanda), "output"),
    "magnitude, LAMP": _by_lamp,
    "Wanda, at once, OWL": _by_owl,
}


def main():
    options = _options()
    task = MODELS[options.model]()
    training = Training(task, options.steps)
    tuning = Training(task._replace(rate=task.rate / _SLOWER), _TUNED)
    fit = jax.jit(lambda key: training.fit(training.start(key), key))
    tune = jax.jit(functools.partial(_tuned, tuning))
    measure = jax.jit(task.measure)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    head = {"model": options.model, "steps": options.steps, "unit": task.unit}
    head |= {"higher_is_better": task.higher_is_better, "tuned": _TUNED}
    for seed in range(options.seeds):
        key = jax.random.key(seed)
        params = _kept_between_runs(options, seed, fit, key)
        others = jax.random.split(jax.random.fold_in(key, 2**31), _BATCHES)
        batches = [(task.batch(other),) for other in others]
        print(_norms(task, params, batches), flush=True)
        for name, column, sparsity in _cells(options):
            began = time.perf_counter()
            where = functools.partial(_in_scope, options.model, sparsity)
            pruned, mask = params, jax.tree.map(lambda leaf: None, params)
            if sparsity is not None:
                pruned, mask = METHODS[name](task, params, batches, sparsity, where)
            taken = time.perf_counter() - began
            row = found.setdefault(
                (name, column), {"method": name, "column": column, "found": [], "tuned": []}
            )
            full = jax.tree.map(
                lambda kept, leaf: np.ones(leaf.shape, bool) if kept is None else kept,
                mask,
                params,
                is_leaf=lambda node: node is None,
            )
            row["found"].append(round(float(measure(pruned)), 4))
            row["tuned"].append(round(float(measure(tune(pruned, full, key))), 4))
            row["zeros"] = round(1 - _share(full if sparsity is None else mask), 4)
            print(f"{seed} {name:22} {column:5} {row['found'][-1]:8.4f} {row['tuned'][-1]:8.4f} "
                  f"{row['zeros']:7.2%} zeros {taken:6.1f} s", flush=True)  # fmt: skip
            if options.save:
                lines = ",\n".join(map(json.dumps, found.values()))
                options.save.write_text(f'{json.dumps(head)[:-1]}, "rows": [\n{lines}\n]}}\n')


def _options():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.proof.with_data", description=__doc__
    )
    parser.add_argument("--model", choices=MODELS, default="text")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--sparsities", choices=SPARSITIES, nargs="+", default=list(SPARSITIES))
    parser.add_argument("--trained", type=pathlib.Path, help="where dense models are kept")
    parser.add_argument("--save", type=pathlib.Path, help="a file of JSON")
    return parser.parse_args()


def _kept_between_runs(options, seed, fit, key):
    """The dense model, trained only if the folder that was named does not have it."""
    if not options.trained:
        return fit(key)
    options.trained.mkdir(parents=True, exist_ok=True)
    path = options.trained / f"{options.model}-{options.steps}-{seed}.pickle"
    if not path.exists():
        path.write_bytes(pickle.dumps(jax.device_get(fit(key))))
    return jax.device_put(pickle.loads(path.read_bytes()))


def _norms(task, params, batches):
    """How much the norms of a leaf's inputs differ: what Wanda knows and magnitude does not."""
    squares = jp.calibrate(task.loss, params, batches).squares
    norms = {path: np.sqrt(np.ravel(each)) for path, each in squares.items()}
    ratios = [f"{path} {n.max() / np.median(n[n > 0]):.1f}" for path, n in norms.items()]
    return f"largest norm of an input over the median: {', '.join(ratios)}"


def _cells(options):
    """The methods and columns that are measured, the dense model first."""
    yield "dense", "dense", None
    for name in options.methods:
        for column in options.sparsities:
            sparsity = SPARSITIES[column]
            # Which weights of a group go does not depend on whose budget they are.
            if isinstance(sparsity, float) or name not in _BUDGETS:
                yield name, column, sparsity


_BUDGETS = ("magnitude, per output", "magnitude, LAMP", "Wanda, at once, OWL")


def _spec(sparsity, per):
    if isinstance(sparsity, tuple):
        return jp.NM(*sparsity, axis="input")
    return jp.Unstructured(sparsity, per=per)


def _in_scope(model, sparsity, path, leaf):
    """The blocks of the transformer, as in the papers; all kernels of the others, if groups fit."""
    if model == "text":
        return path.startswith("block") and path.endswith("kernel")
    grouped = isinstance(sparsity, tuple)
    return path.endswith("kernel") and not (grouped and np.prod(leaf.shape[:-1]) % sparsity[1])


def _tuned(tuning, params, mask, key):
    return tuning.fit(params, jax.random.fold_in(key, 7), lambda tx: _kept(tx, mask))


def _kept(optimizer, mask):
    import optax

    return optax.chain(optimizer, jp.keep_mask(mask))


def _share(mask):
    """The fraction of weights in scope that are kept."""
    leaves = jax.tree.leaves(mask)
    return sum(int(leaf.sum()) for leaf in leaves) / sum(leaf.size for leaf in leaves)


if __name__ == "__main__":
    main()

"""Cuts units out of models in several ways, beside models that were small from the start.

python -m benchmarks.proof.smaller --model conv --steps 2000 --seeds 3 --save conv-smaller.json

Every row is trained with the same number of updates. Each cell is saved as soon as it is there;
`--resume` goes on with what is saved.
"""

import argparse
import functools
import json
import pathlib
import time
from typing import Any, NamedTuple

import jax

import jaxprune as jp
from benchmarks.proof.methods import Training
from benchmarks.proof.models import MODELS

LEFT = (0.75, 0.5, 0.25)  # the share of the dense model's multiply-adds that stays
_TUNED = 0.2  # the part of the updates that follows a cut
_SQUARES = jp.L2()


class Size(NamedTuple):
    """One size that models are cut to: which fraction of each group goes, and how many stay."""

    sparsity: float
    units: dict[str, int]
    cost: Any


class Study(NamedTuple):
    """A model, its groups, its trainings, and the seed."""

    model: str
    deps: jp.Dependencies
    training: Training
    seed: int

    @property
    def task(self):
        return self.training.task

    @property
    def key(self):
        return jax.random.key(self.seed)


def _dense(study, size):
    return _measured(study.task, _trained(study.training, study.seed, 1.0))


def _one_shot(study, size):
    return _measured(*_cut(study, size, 1.0))


def _tuned(study, size):
    """Cut when most of the updates are done; the rest follow a cosine of their own."""
    task, params = _cut(study, size, 1 - _TUNED)
    training = study.training._replace(task=task)
    key = jax.random.fold_in(study.key, 1)
    fit = jax.jit(functools.partial(training.fit, part=_TUNED))
    return _measured(task, fit(params, key))


def _into_cut(study, size):
    """Units go step by step; in the end they are zero, and are cut out."""
    spec = jp.Coupled(study.deps, size.sparsity)
    params = _gradual(study.training)(study.key, spec)
    cut = study.deps.cut_of(params)
    assert study.deps.cost(cut) == size.cost, "another number of units is zero"
    found = _measured(*_small(study, params, cut))
    return found | {"masked": _measured(study.task, params)["found"]}


def _small_from_start(study, size):
    """A model of the same sizes, written down and trained as any other."""
    task = _of_size(study.model, *SIZES[study.model](size.units))
    training = study.training._replace(task=task)
    weights = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.start, study.key)))
    assert weights == size.cost.weights, "the rival is of another size"
    return _measured(task, _whole(training)(study.key))


METHODS = {
    "one-shot": _one_shot,
    "fine-tuned": _tuned,
    "trained into the cut": _into_cut,
    "small from the start": _small_from_start,
}

# The arguments of a model, from the numbers of units of its groups.
SIZES = {
    "conv": lambda units: ((units["conv0"], units["conv1"]), units["dense0"]),
    "text": lambda units: (
        units["embedding"],  # the width
        units["block0/qkv:heads"],
        units["block0/qkv:head_dim"],
        units["block0/up"],  # the hidden features
    ),
}


def main():
    options = _options()
    task = MODELS[options.model]()
    training = Training(task, options.steps)
    params = jax.eval_shape(task.start, jax.random.key(0))
    inputs, _ = jax.eval_shape(task.batch, jax.random.key(0))
    deps = jp.dependencies(task.logits, params, inputs)
    print(deps, flush=True)
    sizes = {left: _size(deps, task.start(jax.random.key(0)), left) for left in options.left}
    head = {"model": options.model, "steps": options.steps, "tuned": _TUNED, "unit": task.unit}
    head |= {"higher_is_better": task.higher_is_better}
    rows = _saved(options.save, head) if options.resume else {}
    cells = [("dense", 1.0, _dense, None)]
    cells += [(n, left, METHODS[n], sizes[left]) for n in options.methods for left in options.left]
    for seed in range(options.seeds):
        study = Study(options.model, deps, training, seed)
        for name, left, method, size in cells:
            row = rows.setdefault((name, left), _row(name, left, size))
            if len(row["found"]) > seed:
                continue
            began = time.perf_counter()
            found = method(study, size) | {"seconds": round(time.perf_counter() - began, 1)}
            for what, value in found.items():
                row.setdefault(what, []).append(value)
            print(f"{seed} {name:21} {left:4.0%} {row['multiply_adds']:6.1%} {found}", flush=True)
            if options.save:
                lines = ",\n".join(map(json.dumps, rows.values()))
                options.save.write_text(f'{json.dumps(head)[:-1]}, "rows": [\n{lines}\n]}}\n')


def _options():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proof.smaller", description=__doc__)
    parser.add_argument("--model", choices=SIZES, default="conv")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--left", type=float, nargs="+", default=LEFT)
    parser.add_argument("--save", type=pathlib.Path, help="a file of JSON")
    parser.add_argument("--resume", action="store_true", help="run what the file does not have")
    return parser.parse_args()


def _saved(path, head):
    """The rows that an earlier run of the same study has saved."""
    if not path or not path.exists():
        return {}
    known = json.loads(path.read_text())
    rows = known.pop("rows")
    if known != head:
        raise SystemExit(f"{path} is of another study: {known}. Name another file.")
    return {(row["method"], row["left"]): row for row in rows}


def _row(name, left, size):
    """What is the same for all seeds."""
    shares = {"multiply_adds": 1.0, "weights": 1.0}
    if size:
        cost = size.cost
        shares["multiply_adds"] = round(cost.multiply_adds / cost.of_multiply_adds, 4)
        shares["weights"] = round(cost.weights / cost.of_weights, 4)
    units = {"units": size.units} if size else {}
    return {"method": name, "left": left} | shares | units | {"found": []}


def _size(deps, params, left):
    """The size whose multiply-adds come nearest to a share, if all groups lose the same fraction.

    So it is the same for all methods and seeds, whichever units go.
    """
    units = {group.name: group.units for group in deps.groups if not group.refused}
    fractions = sorted({k / n for n in units.values() for k in range(1, int(0.9 * n) + 1)})
    found = []
    for fraction in fractions:
        # A little more than the fraction, so that rounding to float32 does not lose a unit.
        sparsity = fraction + 1e-5
        cut = deps.choose(params, sparsity)
        cost = deps.cost(cut)
        counts = {name: len(cut.kept.get(name, range(n))) for name, n in units.items()}
        off = abs(cost.multiply_adds / cost.of_multiply_adds - left)
        found.append((off, Size(sparsity, counts, cost)))
    return min(found, key=lambda pair: pair[0])[1]


def _cut(study, size, part):
    """The dense model after a part of the updates, cut by the squares of its weights."""
    params = _trained(study.training, study.seed, part)
    return _small(study, params, study.deps.choose(params, size.sparsity, metric=_SQUARES))


def _small(study, params, cut):
    """The small model's task, and its parameters."""
    logits, task = study.deps.function(cut), study.task
    loss, measure = (functools.partial(each, logits=logits) for each in (task.loss, task.measure))
    return task._replace(logits=logits, loss=loss, measure=measure), study.deps.shrink(params, cut)


@functools.cache  # so that its training is compiled once for all seeds
def _of_size(model, *sizes):
    return MODELS[model](*sizes)


@functools.cache
def _trained(training, seed, part):
    """The dense model after a part of the updates, trained once for all of a seed's cells."""
    return _whole(training, part)(jax.random.key(seed))


@functools.cache
def _whole(training, part=1.0):
    return jax.jit(lambda key: training.fit(training.start(key), key, part=part))


@functools.cache
def _gradual(training):
    """From a tenth of the updates to three quarters of them, every fiftieth."""
    steps = training.steps
    schedule = jp.gradual(steps // 10, 3 * steps // 4, max(steps // 50, 1))

    def fit(key, spec):
        def wrap(tx):
            return jp.sparsify(tx, spec, schedule=schedule, metric=_SQUARES)

        return training.fit(training.start(key), key, wrap)

    return jax.jit(fit)


def _measured(task, params):
    return {"found": round(float(task.measure(params)), 4)}


if __name__ == "__main__":
    main()

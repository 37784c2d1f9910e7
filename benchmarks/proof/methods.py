"""The methods, each a function from a seed and a spec to trained weights.

A spec's sparsity is an argument of the compiled function, so that a method compiles once for all of
its sparsities and seeds. Every training follows the same cosine from the same rate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp

# How each is made of a rate, and how many times the task's rate it takes.
OPTIMIZERS = {
    "adam": (optax.adam, 1),
    "momentum": (lambda rate: optax.sgd(rate, momentum=0.9), 50),
}


class Training(NamedTuple):
    """A task, for how many steps it is trained, and by which of `OPTIMIZERS`."""

    task: Any
    steps: int
    optimizer: str = "adam"

    def start(self, key):
        return self.task.start(jax.random.fold_in(key, 0))

    def fit(self, params, key, wrap=lambda tx: tx, *, begin=0, end=None, part=1.0, see=None):
        """Trains from step `begin` to `end` of a cosine that is `part` of all steps long.

        `wrap` makes the optimizer sparse, and `see` is what the loss sees in place of weights.
        """
        steps = int(part * self.steps)
        make, rate = OPTIMIZERS[self.optimizer]
        rates = optax.warmup_cosine_decay_schedule(0, rate * self.task.rate, steps // 20, steps)
        tx = wrap(make(lambda count: rates(count + begin)))

        def loss(params, batch):
            return self.task.loss(params if see is None else see(params), batch)

        def step(carry, i):
            params, state = carry
            grads = jax.grad(loss)(params, self.task.batch(jax.random.fold_in(key, i)))
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        counts = 1 + jnp.arange(begin, steps if end is None else end)
        return jax.lax.scan(step, (params, tx.init(params)), counts)[0][0]


class Method(NamedTuple):
    """`begin(training, key)` trains what all sparsities share, and `go` the rest of it.

    `go(training, key, shared, spec)` returns the sparse weights, and what it hands on to the next
    sparsity. `budget` names one of `BUDGETS`.
    """

    begin: Callable[..., Any]
    go: Callable[..., Any]
    budget: str = "erk"


def _nothing(training, key):
    return ()


def _whole(training, key):
    return training.fit(training.start(key), key)


def _half(training, key):
    return training.fit(training.start(key), key, part=0.5)


def _dense(training, key, trained, spec):
    return trained, trained


def _one_shot(training, key, trained, spec):
    return jp.prune(trained, spec)[0], trained


def _tuned(training, key, trained, spec):
    """The other half of the steps, along a cosine of their own, with the mask as it is."""
    pruned, mask = jp.prune(trained, spec)
    key = jax.random.fold_in(key, 1)
    return training.fit(pruned, key, lambda tx: _kept(tx, mask), part=0.5), trained


def _sparsified(training, key, spec, **how):
    def wrap(tx):
        return jp.sparsify(tx, spec, key=jax.random.fold_in(key, 2), **how)

    return training.fit(training.start(key), key, wrap), ()


def _gradual(training, key, _, spec):
    steps = training.steps
    schedule = jp.gradual(steps // 10, 3 * steps // 4, max(steps // 50, 1))
    return _sparsified(training, key, spec, schedule=schedule)


def _moving(rule):
    """The mask is random at first, and moves every fiftieth of the first three quarters."""

    def go(training, key, _, spec):
        every = max(training.steps // 50, 1)
        return _sparsified(
            training,
            key,
            spec,
            schedule=jp.constant(every, 3 * training.steps // 4, every),
            rule=rule,
            mask=_random_mask(training, key, spec),
        )

    return go


def _static(training, key, _, spec):
    mask = _random_mask(training, key, spec)
    params = jp.apply_mask(training.start(key), mask)
    return training.fit(params, key, lambda tx: _kept(tx, mask)), ()


def phases(steps):
    """AC/DC's: phases of a tenth in turn, and from seven tenths on sparse for good."""
    tenth = max(steps // 10, 1)
    return jp.periodic(tenth, 7 * tenth, sparse=tenth, dense=tenth)


def _acdc(training, key, _, spec):
    return _sparsified(training, key, spec, schedule=phases(training.steps), rule=jp.acdc())


def _early(training, key, _, spec):
    """What AC/DC would be without its phases: pruned once, when its first one begins."""
    return _sparsified(training, key, spec, schedule=jp.one_shot(training.steps // 10))


def _through(decay):
    def go(training, key, _, spec):
        def see(params):
            return jp.straight_through(params, spec, decay=decay)

        return jp.prune(training.fit(training.start(key), key, see=see), spec)[0], ()

    return go


def _ticket(early):
    """Prunes the weights of the sparsity before, and trains again from an early step's.

    What is handed on is the weights to go back to, and those trained last.
    """

    def begin(training, key):
        step = int(early * training.steps)
        return training.fit(training.start(key), key, end=step), _whole(training, key)

    def go(training, key, shared, spec):
        back, trained = shared
        mask = jp.prune(trained, spec)[1]
        step, keep = int(early * training.steps), lambda tx: _kept(tx, mask)
        trained = training.fit(jp.apply_mask(back, mask), key, keep, begin=step)
        return trained, (back, trained)

    return Method(begin, go)


def _kept(optimizer, mask):
    return optax.chain(optimizer, jp.keep_mask(mask))


def _random_mask(training, key, spec):
    scores = jp.importance(training.start(key), jp.Random(jax.random.fold_in(key, 3)))
    return jp.make_mask(scores, spec)


def _two_of_four(params, sparsity):
    """2:4 along the input wherever it can be divided so."""
    del sparsity
    pattern = jp.NM(2, 4, axis="input")
    scope = jp.allocate(params, 0.5)

    def fits(scope, leaf):
        return None if scope is None or leaf.shape[-2] % 4 else pattern

    return jax.tree.map(fits, scope, params, is_leaf=lambda node: node is None)


# How a sparsity is shared out among the leaves, and the only one that there is, for some.
BUDGETS = {
    "none": lambda params, sparsity: None,
    "erk": jp.allocate,
    "uniform": lambda params, sparsity: jp.Unstructured(sparsity),
    "global": lambda params, sparsity: jp.Unstructured(sparsity, per="global"),
    "2:4": _two_of_four,
}

ONLY = {"none": [0.0], "2:4": [0.5]}

METHODS = {
    "dense": Method(_whole, _dense, "none"),
    "one-shot": Method(_whole, _one_shot),
    "one-shot, uniform": Method(_whole, _one_shot, "uniform"),
    "one-shot, global": Method(_whole, _one_shot, "global"),
    "fine-tuned": Method(_half, _tuned),
    "gradual": Method(_nothing, _gradual),
    "gradual, uniform": Method(_nothing, _gradual, "uniform"),
    "gradual, global": Method(_nothing, _gradual, "global"),
    "static": Method(_nothing, _static),
    "SET": Method(_nothing, _moving(jp.sparse_evolution())),
    "RigL": Method(_nothing, _moving(jp.rigl())),
    "RigL, 0.5": Method(_nothing, _moving(jp.rigl(0.5))),
    "AC/DC": Method(_nothing, _acdc),
    "AC/DC, global": Method(_nothing, _acdc, "global"),
    "pruned at a tenth": Method(_nothing, _early),
    "STE": Method(_nothing, _through(0.0)),
    "SR-STE": Method(_nothing, _through(2e-4)),
    "lottery, start": _ticket(0.0),
    "lottery, early": _ticket(0.05),
    "one-shot, 2:4": Method(_whole, _one_shot, "2:4"),
    "fine-tuned, 2:4": Method(_half, _tuned, "2:4"),
    "STE, 2:4": Method(_nothing, _through(0.0), "2:4"),
    "SR-STE, 2:4": Method(_nothing, _through(2e-4), "2:4"),
}

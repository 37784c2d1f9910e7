"""Lottery tickets: what is trained when, from which weights, and how much is gone by then."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from tests import oracle

RNG = np.random.default_rng(0)
PARAMS = {
    "up": {"kernel": jnp.asarray(RNG.normal(size=(6, 16)), jnp.float32), "bias": jnp.ones(16)},
    "down": {"kernel": jnp.asarray(RNG.normal(size=(16, 4)), jnp.float32), "bias": jnp.ones(4)},
}
HOW = {"steps": 10, "rounds": 3}


class Recorder:
    """A training that moves what its mask keeps, each update in its own way, and takes notes."""

    def __init__(self):
        self.calls = []

    def __call__(self, params, mask, steps):
        self.calls.append((params, mask, steps))
        for i in steps:
            noise = np.random.default_rng(i)
            params = jax.tree.map(
                lambda w, noise=noise: w + noise.normal(size=w.shape).astype(np.float32), params
            )
        return params if mask is None else jp.apply_mask(params, mask)


def removed(sparsity, size):
    return int(np.floor(np.float32(sparsity) * np.float32(size)))


def count(mask):
    return sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask))


def kernel(tree, name="up"):
    return np.asarray(tree[name]["kernel"])


@pytest.mark.parametrize("to", [0, 4])
@pytest.mark.parametrize("rewind", ["weights", "rate"])
def test_what_is_trained_from_where(rewind, to):
    train = Recorder()
    tickets = list(jp.lottery_tickets(train, PARAMS, 0.9, rewind=rewind, to=to, **HOW))
    assert [ticket.round for ticket in tickets] == [0, 1, 2, 3]
    ranges = [steps for _, _, steps in train.calls]
    assert ranges == ([range(to)] if to else []) + 4 * [range(to, 10)]
    early = Recorder()(PARAMS, tickets[0].mask, range(to))
    chex.assert_trees_all_equal(tickets[0].params, early)
    assert all(leaf.all() for leaf in jax.tree.leaves(tickets[0].mask))
    for before, ticket in itertools.pairwise(tickets):
        source = early if rewind == "weights" else before.trained
        chex.assert_trees_all_equal(ticket.params, jp.apply_mask(source, ticket.mask))
        expected = Recorder()(ticket.params, ticket.mask, range(to, 10))
        chex.assert_trees_all_equal(ticket.trained, expected)


def test_each_round_removes_the_lowest_of_what_it_trained():
    tickets = list(jp.lottery_tickets(Recorder(), PARAMS, 0.9, **HOW))
    for name, size in (("up", 96), ("down", 64)):
        for before, ticket in itertools.pairwise(tickets):
            gone = removed(1 - (1 - 0.9) ** (ticket.round / 3), size)
            scores = np.where(kernel(before.mask, name), abs(kernel(before.trained, name)), -1)
            expected = np.ones(size, bool)
            expected[np.argsort(scores.ravel(), kind="stable")[:gone]] = False
            np.testing.assert_array_equal(kernel(ticket.mask, name).ravel(), expected)
            assert not (kernel(ticket.mask, name) & ~kernel(before.mask, name)).any()
        assert (~kernel(tickets[-1].mask, name)).sum() == removed(0.9, size)
    assert tickets[-1].mask["up"]["bias"] is None


@pytest.mark.parametrize(
    "spec",
    [
        jp.Unstructured(0.8, per="global"),
        jp.Channels(0.5),
        {"up": jp.Rows(0.5), "down": jp.NM(1, 4)},
    ],
    ids=["global", "channels", "by pattern"],
)
def test_the_last_round_meets_any_spec_and_none_gives_back(spec):
    *others, last = jp.lottery_tickets(Recorder(), PARAMS, spec, **HOW)
    kept = [count(ticket.mask) for ticket in (*others, last)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 160
    assert kept[-1] == count(jp.make_mask(PARAMS, spec))


def test_scores_are_of_the_trained_weights_by_any_metric():
    *_, last = jp.lottery_tickets(
        Recorder(), PARAMS, 0.5, steps=3, rounds=1, metric=lambda w: -jnp.abs(w)
    )
    trained = Recorder()(PARAMS, None, range(3))
    expected = oracle.masks(jp.Unstructured(0.5), [-abs(kernel(trained))])
    np.testing.assert_array_equal(kernel(last.mask), expected[0])


def test_nothing_is_trained_before_it_is_asked_for():
    train = Recorder()
    tickets = jp.lottery_tickets(train, PARAMS, 0.9, **HOW)
    assert not train.calls
    next(tickets)
    assert len(train.calls) == 1


def test_with_a_real_optimizer():
    x = jnp.asarray(RNG.normal(size=(32, 6)), jnp.float32)

    def loss(params):
        hidden = jnp.tanh(x @ params["up"]["kernel"] + params["up"]["bias"])
        return jnp.mean((hidden @ params["down"]["kernel"] - jnp.sin(x[:, :4])) ** 2)

    @jax.jit
    def update(params, mask, rate):
        tx = optax.chain(optax.sgd(rate), jp.keep_mask(mask))
        updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
        return optax.apply_updates(params, updates)

    def train(params, mask, steps):
        for i in steps:
            params = update(params, mask, 0.5 * (1 - i / 100))
        return params

    for rewind in ("weights", "rate"):
        *_, last = jp.lottery_tickets(
            train, PARAMS, 0.75, steps=100, rounds=2, rewind=rewind, to=10
        )
        assert loss(last.trained) < loss(last.params)
        assert jp.report(last.trained, last.mask).stray == 0


def test_a_training_that_does_not_keep_its_mask_is_told():
    def train(params, mask, steps):
        return jax.tree.map(lambda w: w + 1, params)

    tickets = jp.lottery_tickets(train, PARAMS, 0.5, steps=1, rounds=1)
    next(tickets)
    with pytest.raises(jp.PruningError, match=r"returned 80 weights that are not zero.*keep_mask"):
        next(tickets)


def test_a_training_that_returns_something_else_is_told():
    tickets = jp.lottery_tickets(lambda *_: {"loss": 1.0}, PARAMS, 0.5, steps=1, rounds=1)
    with pytest.raises(jp.StructureMismatch, match="what train returned"):
        next(tickets)


def test_a_training_that_returns_other_shapes_or_nan_is_told():
    def shrunk(params, mask, steps):
        return jax.tree.map(lambda w: w[:1], params)

    with pytest.raises(
        jp.StructureMismatch, match=r"in what train returned it has shape \(1, 16\)"
    ):
        next(jp.lottery_tickets(shrunk, PARAMS, 0.5, steps=1, rounds=1))

    def diverged(params, mask, steps):
        return {**params, "up": {**params["up"], "kernel": params["up"]["kernel"] * jnp.nan}}

    with pytest.raises(jp.PruningError, match="weights that are NaN, in `up/kernel`"):
        next(jp.lottery_tickets(diverged, PARAMS, 0.5, steps=1, rounds=1))


def test_whole_rounds_may_be_compiled():
    @jax.jit
    def last(params):
        *_, ticket = jp.lottery_tickets(Recorder(), params, 0.9, **HOW)
        return ticket.mask

    *_, ticket = jp.lottery_tickets(Recorder(), PARAMS, 0.9, **HOW)
    chex.assert_trees_all_equal(last(PARAMS), ticket.mask)


def test_a_training_may_donate_what_it_is_given():
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def moved(params, mask):
        return jp.apply_mask(jax.tree.map(lambda w: 2 * w, params), mask), mask

    def train(params, mask, steps):
        return moved(params, mask)[0]

    params = jax.tree.map(jnp.copy, PARAMS)
    *_, last = jp.lottery_tickets(train, params, 0.5, rewind="rate", **HOW)
    expected = jax.tree.map(lambda w: 16 * w, params)
    chex.assert_trees_all_equal(last.trained, jp.apply_mask(expected, last.mask))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"train": None}, r"train is a function of \(params, mask, steps\)"),
        ({"steps": 0}, "steps is a Python integer of 1 or more, got 0"),
        ({"rounds": 1.5}, "rounds is a Python integer of 1 or more, got 1.5"),
        ({"to": -1}, "to is a Python integer of 0 or more"),
        ({"to": 10}, "to=10 leaves nothing to train again of steps=10"),
        ({"rewind": "init"}, 'rewind is "weights" or "rate", got \'init\''),
        ({"metric": jp.L1}, r"L1 is a class: write L1\(\)"),
        ({"spec": 1.0}, "sparsity"),
        ({"spec": jp.NM(2, 5)}, "not divisible by m=5"),
        ({"spec": {"nothing/*": 0.5}}, "nothing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_before_any_training(wrong, words):
    train = Recorder()
    arguments = {"train": train, "params": PARAMS, "spec": 0.5, **HOW} | wrong
    with pytest.raises(jp.PruningError, match=words):
        jp.lottery_tickets(**arguments)
    assert not train.calls

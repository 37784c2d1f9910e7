"""Ten architectures: what every leaf is used for, against truth written by hand."""

import fnmatch
import functools
import math

import jax
import numpy as np
import pytest

from jaxprune._tree import is_array, leaves, rebuild
from jaxprune.tracing._trace import trace
from tests.tracing.models import MODELS


@functools.cache
def built(name):
    model = MODELS[name]()
    return model, trace(model.f, model.params, *model.inputs)


def expected(truth, path):
    """What the first pattern that matches the path says, as a list of uses."""
    said = next(said for pattern, said in truth.items() if fnmatch.fnmatchcase(path, pattern))
    return said if isinstance(said, list) else [said]


@pytest.mark.parametrize("name", MODELS)
def test_every_leaf_of(name):
    model, uses = built(name)
    found, true = {}, {}
    for leaf in uses.leaves:
        rows = uses.of(leaf.path)
        found[leaf.path] = {(r.use, r.input_axes, r.output_axes, r.batch_axes) for r in rows}
        true[leaf.path] = set(expected(model.truth, leaf.path))
    assert found == true
    assert list(found) == [leaf.path for leaf in leaves(model.params) if is_array(leaf.value)]


@pytest.mark.parametrize("name", MODELS)
def test_sources_are_lines_of_the_model(name):
    _, uses = built(name)
    assert {row.source.rpartition("/")[2].partition(":")[0] for row in uses.rows} == {"models.py"}


def filled(model):
    """The model's parameters with a value for everything."""
    random = np.random.default_rng(0)

    def value(leaf):
        # Positive, so that no variance vanishes and no unit stays silent.
        return random.uniform(0.1, 1, leaf.shape).astype(np.float32) if is_array(leaf) else leaf

    return rebuild(model.params, [value(leaf.value) for leaf in leaves(model.params)])


LOSSES = 3


def gradients(model):
    """For each leaf its gradients for random losses, all linear in the model's output."""
    whole = leaves(filled(model))
    places = [k for k, leaf in enumerate(whole) if is_array(leaf.value)]
    random = np.random.default_rng(1)

    def outputs(arrays):
        values = [leaf.value for leaf in whole]
        for place, array in zip(places, arrays, strict=True):
            values[place] = array
        return model.f(rebuild(model.params, values), *model.inputs)

    def all_of(arrays):
        out, back = jax.vjp(outputs, arrays)
        seeds = random.normal(size=(LOSSES, *out.shape)).astype(np.float32)
        return jax.lax.map(lambda seed: back(seed)[0], seeds)

    found = quickly(all_of)([whole[k].value for k in places])
    return {whole[k].path: np.asarray(each) for k, each in zip(places, found, strict=True)}


def quickly(function):
    """Compiled for one call: compiling it well would take longer than it runs."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def rank(matrix):
    values = np.linalg.svd(matrix, compute_uv=False)
    return int((values > 1e-4 * values.max(initial=1e-30)).sum())


# How many windows of a transposed convolution share the taps that one position has.
WINDOWS = {"u_net up/weight": 4}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_say_the_same_of(name):
    """The gradient of a kernel is sum_p x_p g_p^T over the positions p at which it is applied.

    As a matrix [losses * outputs, inputs] its rank is so at most the number of positions, which is
    what multiply-adds count: x_p does not depend on the loss. With inputs and outputs exchanged it
    is higher, as g_p does. Nothing of this looks into the program.
    """
    model, uses = built(name)
    told_apart = 0
    by_leaf = gradients(model)
    for leaf in uses.leaves:
        (row, *others) = uses.of(leaf.path)
        if others or not row.is_contraction or row.met[0].roles.groups > 1:
            continue
        grad = by_leaf[leaf.path]
        axes = [[1 + a for a in x] for x in (row.batch_axes, row.output_axes, row.input_axes)]
        n_batch, n_out, n_in = (math.prod(grad.shape[a] for a in some) for some in axes)
        assert n_in * n_out * n_batch == math.prod(leaf.value.shape)
        batch, out, into = axes
        matrices = np.transpose(grad, (*batch, 0, *out, *into))
        positions = row.multiply_adds // (n_in * n_out)
        # Any expert may get all tokens; of layers, each gets the same.
        positions //= 1 if "ragged" in leaf.path else n_batch
        positions *= WINDOWS.get(f"{name} {leaf.path}", 1)
        for one in matrices.reshape(n_batch, LOSSES, n_out, n_in):
            assert rank(one.reshape(LOSSES * n_out, n_in)) <= positions, leaf.path
            exchanged = rank(np.swapaxes(one, 1, 2).reshape(LOSSES * n_in, n_out))
            told_apart += exchanged > positions
    assert told_apart

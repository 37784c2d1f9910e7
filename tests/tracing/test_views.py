"""Each way to move a leaf about, alone: the axes that it has then, and its matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxprune.tracing._matrices import from_matrices, spread, to_matrices
from jaxprune.tracing._trace import trace


def numbers(*shape):
    return 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


# Name -> (a leaf, what is done to it so that it is a matrix [in, out], its input and output axes).
VIEWS = {
    "nothing": (numbers(4, 6), lambda w: w, (0,), (1,)),
    "transpose": (numbers(6, 4), lambda w: w.T, (1,), (0,)),
    "transpose and merge": (
        numbers(2, 6, 4),
        lambda w: w.transpose(2, 0, 1).reshape(8, 6),
        (2, 0),
        (1,),
    ),
    "reshape that merges": (numbers(2, 3, 4), lambda w: w.reshape(6, 4), (0, 1), (2,)),
    "reshape that splits": (
        numbers(4, 6),
        lambda w: w.reshape(4, 2, 3).transpose(0, 2, 1).reshape(4, 6),
        (0,),
        (1,),
    ),
    "reshape that splits across": (
        numbers(4, 6),
        lambda w: w.reshape(4, 2, 3).transpose(1, 0, 2).reshape(8, 3),
        (1, 0),
        (1,),
    ),
    "reshape that divides nothing": (numbers(2, 3), lambda w: w.reshape(3, 2), (0, 1), (0, 1)),
    "squeeze": (numbers(4, 1, 6), lambda w: w[:, 0], (0,), (2,)),
    "new axis": (numbers(4, 6), lambda w: w[None, :, None].reshape(4, 6), (0,), (1,)),
    "broadcast": (numbers(6), lambda w: jnp.broadcast_to(w, (4, 6)), (), (0,)),
    "repeat": (numbers(4, 3), lambda w: jnp.repeat(w, 2, axis=1), (0,), (1,)),
    "tile": (numbers(4, 3), lambda w: jnp.tile(w, (1, 2)), (0,), (1,)),
    "another precision": (numbers(4, 6), lambda w: w.astype(jnp.float16), (0,), (1,)),
    "integers": (
        numbers(4, 6).astype(np.int8),
        lambda w: w.astype(jnp.float32) * 0.5,
        (0,),
        (1,),
    ),
    "slice": (numbers(5, 11), lambda w: lax.slice(w, (1, 0), (5, 11), (1, 2)), (0,), (1,)),
    "dynamic slice at a number": (
        numbers(4, 9),
        lambda w: lax.dynamic_slice(w, (0, 7), (4, 6)),
        (0,),
        (1,),
    ),
    "split": (numbers(4, 12), lambda w: jnp.split(w, 2, axis=1)[1], (0,), (1,)),
    "pad": (numbers(4, 3), lambda w: jnp.pad(w, ((0, 0), (1, 2))), (0,), (1,)),
    "pad between": (numbers(4, 3), lambda w: lax.pad(w, 0.0, ((0, 0, 0), (0, 1, 1))), (0,), (1,)),
    "reverse": (numbers(4, 6), lambda w: w[::-1, ::-1], (0,), (1,)),
    "roll": (numbers(4, 6), lambda w: jnp.roll(w, 1, axis=0), (0,), (1,)),
    "stack with itself": (
        numbers(4, 3),
        lambda w: jnp.stack([w, w], 1).reshape(4, 6),
        (0,),
        (1,),
    ),
    "concatenate with zeros": (
        numbers(2, 6),
        lambda w: jnp.concatenate([w, jnp.zeros((2, 6))]),
        (0,),
        (1,),
    ),
    "one of a stack": (numbers(3, 4, 6), lambda w: w[1], (1,), (2,)),
    "negative": (numbers(4, 6), lambda w: -w, (0,), (1,)),
    "times a number": (numbers(4, 6), lambda w: 3.0 * w / 2.0, (0,), (1,)),
    "each layer of a stack": (
        numbers(3, 6, 4),
        lambda w: lax.map(jnp.transpose, w)[1],
        (2,),
        (1,),
    ),
    "stop gradient": (numbers(4, 6), lax.stop_gradient, (0,), (1,)),
    "barrier": (numbers(4, 6), lambda w: lax.optimization_barrier((w, 1.0))[0], (0,), (1,)),
    "jit": (numbers(6, 4), jax.jit(jnp.transpose), (1,), (0,)),
    "checkpoint": (numbers(6, 4), jax.checkpoint(jnp.transpose), (1,), (0,)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_axes_after(name):
    w, view, into, out = VIEWS[name]
    rows = trace(lambda w, x: x @ view(w), w, numbers(2, jax.eval_shape(view, w).shape[0])).rows
    assert {(row.use, row.input_axes, row.output_axes, row.batch_axes) for row in rows} == {
        ("product", into, out, ())
    }


# Scales are left out of a leaf's matrices, and so is its dtype.
MOVES_ONLY = sorted(set(VIEWS) - {"integers", "negative", "times a number", "another precision"})


@pytest.mark.parametrize("name", MOVES_ONLY)
def test_matrices_after(name):
    w, view, *_ = VIEWS[name]
    x = numbers(2, jax.eval_shape(view, w).shape[0])
    (row,) = trace(lambda w, x: x @ view(w), w, x).rows
    matrices = jax.jit(lambda w: sum(to_matrices(met, w) for met in row.met))(w)
    np.testing.assert_array_equal(matrices, np.asarray(jax.jit(view)(w)).T[None])


@pytest.mark.parametrize("name", sorted({*MOVES_ONLY} - {"repeat", "tile", "broadcast"}))
def test_matrices_go_back_where_they_came_from(name):
    w, view, *_ = VIEWS[name]
    (row,) = trace(lambda w, x: x @ view(w), w, numbers(2, jax.eval_shape(view, w).shape[0])).rows
    met = row.met[0]

    @jax.jit
    def there_and_back(w):
        matrices, pull = jax.vjp(lambda w: to_matrices(met, w), w)
        return from_matrices(met, -matrices, w), pull(jnp.ones_like(matrices))[0]

    back, slopes = map(np.asarray, there_and_back(w))
    is_read = slopes != 0
    assert is_read.any()
    np.testing.assert_array_equal(back, np.where(is_read, -w, w))


def test_a_statistic_of_inputs_is_laid_over_the_leaf():
    """Attention's output kernel [heads, features, out]: one number a head and feature."""
    w = numbers(2, 3, 4)
    (row,) = trace(lambda w, x: jnp.einsum("thk,hkd->td", x, w), w, numbers(5, 2, 3)).rows
    over = spread(row.met[0], jnp.arange(6.0)[None], w)
    np.testing.assert_array_equal(over, np.broadcast_to(np.arange(6.0).reshape(2, 3, 1), w.shape))


def test_a_grouped_kernel_has_a_matrix_a_group():
    w = numbers(3, 2, 8)  # 3 taps, 2 of 4 inputs, 8 outputs in 2 groups
    numbers_of = ("NWC", "WIO", "NWC")

    def f(w, x):
        return lax.conv_general_dilated(
            x, w, (1,), "SAME", dimension_numbers=numbers_of, feature_group_count=2
        )

    (row,) = trace(f, w, numbers(1, 5, 4)).rows
    assert (row.input_axes, row.output_axes) == ((0, 1), (2,))
    expected = w.reshape(6, 2, 4).transpose(1, 2, 0)
    np.testing.assert_array_equal(to_matrices(row.met[0], w), expected)
    np.testing.assert_array_equal(from_matrices(row.met[0], 2 * expected, w), 2 * w)


def test_layers_are_a_leading_dimension():
    w = numbers(3, 4, 4)

    def scanned(w, x):
        return lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    def indexed(w, x):
        return lax.fori_loop(0, 3, lambda i, x: x @ w[i], x)

    for f in (scanned, indexed):
        (row,) = trace(f, w, numbers(2, 4)).rows
        assert (row.input_axes, row.output_axes, row.batch_axes) == ((1,), (2,), (0,))
        expected = w.transpose(0, 2, 1)[:, None]
        np.testing.assert_array_equal(to_matrices(row.met[0], w), expected)
        over = spread(row.met[0], numbers(3, 1, 4), w)
        np.testing.assert_array_equal(over, np.broadcast_to(numbers(3, 4, 1), w.shape))


# --- leaves side by side ------------------------------------------------------------------------


# Two kernels of one size, joined in several ways and applied at once.
GATES = {"a": numbers(4, 3), "b": numbers(4, 3) + 100}

JOINS = {
    "concatenated": lambda p: jnp.concatenate([p["a"], p["b"]], axis=1),
    "stacked": lambda p: jnp.stack([p["a"], p["b"]], axis=1).reshape(4, 6),
    "sliced": lambda p: jnp.concatenate([p["a"], p["b"], p["a"]], axis=1)[:, 3:],
}


@pytest.mark.parametrize("name", JOINS)
def test_leaves_that_are(name):
    join = JOINS[name]
    uses = trace(lambda p, x: x @ join(p), GATES, numbers(2, 4))
    assert [(row.path, row.use, row.input_axes, row.output_axes) for row in uses.rows] == [
        ("a", "product", (0,), (1,)),
        ("b", "product", (0,), (1,)),
    ]
    # Each leaf owns its own multiply-adds, and the two matrices are the joined one.
    assert [row.multiply_adds for row in uses.rows] == [2 * 4 * 3] * 2
    total = sum(to_matrices(met, GATES[row.path]) for row in uses.rows for met in row.met)
    np.testing.assert_array_equal(total, np.asarray(join(GATES)).T[None])


def test_a_slice_of_a_stack_holds_one_leaf_only():
    uses = trace(lambda p, x: x @ jnp.stack([p["a"], p["b"]])[1], GATES, numbers(2, 4))
    assert [(row.path, row.use) for row in uses.rows] == [("a", "unused"), ("b", "product")]


def test_stacked_leaves_that_a_scan_takes_apart():
    params = [numbers(4, 4) for _ in range(3)]

    def f(params, x):
        return lax.scan(lambda x, w: (x @ w, None), x, jnp.stack(params))[0]

    uses = trace(f, params, numbers(2, 4))
    assert [(r.use, r.input_axes, r.output_axes, r.multiply_adds) for r in uses.rows] == [
        ("product", (0,), (1,), 2 * 4 * 4)
    ] * 3

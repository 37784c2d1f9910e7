"""Least squares for what stays, against NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp
from jaxprune.calibration._refit import Refit
from tests.calibration import statements
from tests.calibration.test_sparsegpt import ROWS, layer


def masked(weights, sparsity=0.6, seed=0):
    return np.random.default_rng(seed).random(weights.shape) >= sparsity


def errors(new, weights, gram):
    return np.stack(
        [statements.layer_errors(*matrix) for matrix in zip(new, weights, gram, strict=True)]
    )


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 40), (96, 128)])
def test_weights_are_the_least_squares(outputs, inputs, damping):
    weights, gram = layer(outputs, inputs)
    kept = masked(weights)
    new = Refit(damping=damping).solve(weights, gram, ROWS, kept)
    expected = statements.refit(weights[0], gram[0], kept[0], damping)
    np.testing.assert_allclose(new[0], expected, atol=2e-3)
    best = errors(expected[None], weights, gram)
    np.testing.assert_allclose(errors(new, weights, gram), best, rtol=1e-5)


@given(st.floats(0, 1), st.sampled_from(["float32", "bfloat16"]), st.integers(0, 99))
def test_no_output_becomes_worse(sparsity, dtype, seed):
    """On inputs of which most repeat others, and weights that are rounded."""
    weights, gram = layer(48, 40, seed=seed % 3)
    mixing = np.random.default_rng(seed).normal(size=(40, 3)) @ np.ones((3, 40))
    gram = (mixing @ gram[0] @ mixing.T)[None].astype(np.float32)
    weights = jnp.asarray(weights, dtype)
    kept = masked(weights, sparsity, seed)
    new = Refit(damping=0.0).solve(weights, gram, ROWS, kept)
    assert new.dtype == weights.dtype
    assert (np.asarray(new)[~kept] == 0).all()
    before = errors(np.where(kept, weights, 0), weights, gram)
    assert (errors(new, weights, gram) <= before).all()


def test_matrices_of_a_batch_are_solved_as_if_alone():
    weights, gram = layer(6, 9, batch=5)
    kept = masked(weights)
    new = Refit(damping=0).solve(weights, gram, np.full(5, ROWS), kept)
    for i in range(5):
        expected = statements.refit(weights[i], gram[i], kept[i])
        np.testing.assert_allclose(new[i], expected, atol=1e-3)


def test_weights_without_a_loss_stay_to_the_bit():
    weights, gram = layer(48, 40)
    kept = masked(weights)
    kept[0, 0] = True  # nothing of this output goes,
    kept[0, 1] = False  # and nothing of this one stays
    new = np.asarray(Refit().solve(weights, gram, ROWS, kept))
    np.testing.assert_array_equal(new[0, 0], weights[0, 0])
    assert (new[0, 1] == 0).all()
    never = np.asarray(Refit().solve(weights, 0 * gram, 0, kept))
    np.testing.assert_array_equal(never, np.where(kept, weights, 0))


def test_a_weight_that_is_not_finite_spoils_its_own_output_alone():
    weights, gram = layer(48, 40)
    kept = masked(weights)
    expected = np.asarray(Refit().solve(weights, gram, ROWS, kept))
    weights[0, 0, np.flatnonzero(~kept[0, 0])[0]] = np.nan
    weights[0, 1, np.flatnonzero(kept[0, 1])[0]] = np.nan
    new = np.asarray(Refit().solve(weights, gram, ROWS, kept))
    np.testing.assert_array_equal(new[0, :2], np.where(kept, weights, 0)[0, :2])
    np.testing.assert_allclose(new[0, 2:], expected[0, 2:], atol=1e-4)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_outputs_may_be_spread_over_devices(axis_type):
    weights, gram = layer(48, 40)
    kept = masked(weights)
    alone = Refit().solve(weights, gram, ROWS, kept)
    mesh = jax.make_mesh((8,), ("d",), (axis_type,))
    spread = NamedSharding(mesh, P(None, "d", None))
    everywhere = jax.device_put(gram, NamedSharding(mesh, P()))
    placed = [jax.device_put(x, spread) for x in (weights, kept)]
    new = Refit().solve(placed[0], everywhere, ROWS, placed[1])
    np.testing.assert_allclose(new, alone, atol=1e-4)


def test_what_cannot_be_solved_is_named():
    weights, gram = layer(48, 40)
    with pytest.raises(jp.StructureMismatch, match=r"`a` .*\(1, 48, 40\) and a mask of \(48, 40\)"):
        Refit().solve(weights, gram, ROWS, masked(weights)[0], name="`a`")
    with pytest.raises(jp.PruningError, match="`a` reads are not finite, in 1 of 1 matrices"):
        Refit().solve(weights, np.nan * gram, ROWS, masked(weights), name="`a`")
    with pytest.raises(jp.PruningError, match="damping is the fraction"):
        Refit(damping=np.inf)

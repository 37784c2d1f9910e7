"""Scores and masks that a compiler fuses into a user's step have the bits of eager calls.

A module of its own, for these programs are compiled with all of XLA's passes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests import oracle
from tests.test_laws import METRICS, SPECS, assert_same, mask_of, product, weights

# Budgets of single weights compare scores and add none up, so the bits hold for any floats. The
# score of a whole unit is a sum of floats, and a compiler may add in another order: whole numbers
# do not mind.
SUMMED = ("rows", "columns", "channels", "blocks")


def near_ties(shape, seed):
    """Floats a few units in the last place apart, which a fused multiply-add could swap."""
    return jax.device_put(oracle.hard_scores("neighbours", seed, shape, np.float32))


@pytest.mark.parametrize(
    ("metric", "spec"),
    [*product(["L2"], SPECS), *product(["L1", "Random", "LCG", "function"], ["leaf", "2:4"])],
)
def test_fused_in_a_users_jit_they_give_the_eager_bits(metric, spec):
    draw = weights if spec in SUMMED else near_ties
    params = {"a": {"kernel": draw((8, 16), 0)}, "b": {"kernel": draw((16, 8), 1)}}
    rule = SPECS[spec](0.59375)

    @jax.jit
    def step(params):
        scores = jp.importance(params, METRICS[metric](params))
        mask = jp.make_mask(scores, rule)
        pruned = jp.apply_mask(params, mask)
        return mask, pruned, jax.tree.map(lambda s, w: jnp.sum(s + w * w), scores, pruned)

    mask, pruned, _ = step(params)
    expected = mask_of(params, METRICS[metric](params), rule)
    assert_same(mask, expected)
    assert_same(pruned, jp.apply_mask(params, expected))

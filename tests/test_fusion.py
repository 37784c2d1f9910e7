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


# A floor changes a count, and nothing that is fused. Of most metrics two specs that read the same
# scores are enough.
ALONE = [(name,) for name in SPECS if "floor" not in name]


@pytest.mark.parametrize(
    ("metric", "specs"),
    [*product(["L2"], ALONE), *product(["L1", "Random", "LCG", "function"], [("leaf", "2:4")])],
)
def test_fused_in_a_users_jit_they_give_the_eager_bits(metric, specs):
    draw = weights if {*specs} <= {*SUMMED} else near_ties
    params = {"a": {"kernel": draw((8, 16), 0)}, "b": {"kernel": draw((16, 8), 1)}}
    rules = {spec: SPECS[spec](0.59375) for spec in specs}

    @jax.jit
    def step(params):
        scores = jp.importance(params, METRICS[metric](params))
        masks = {spec: jp.make_mask(scores, rule) for spec, rule in rules.items()}
        pruned = {spec: jp.apply_mask(params, mask) for spec, mask in masks.items()}
        sums = [jax.tree.map(lambda s, w: jnp.sum(s + w * w), scores, p) for p in pruned.values()]
        return masks, pruned, sums

    masks, pruned, _ = step(params)
    for spec, rule in rules.items():
        expected = mask_of(params, METRICS[metric](params), rule)
        assert_same(masks[spec], expected)
        assert_same(pruned[spec], jp.apply_mask(params, expected))

"""SparseGPT, against a statement of it in NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp
from jaxprune._tree import Leaf
from jaxprune.calibration import _columns
from jaxprune.calibration._sparsegpt import SparseGPT, in_matrix_words, refused
from tests.calibration import statements

ROWS = 400
SPECS = {
    "leaf": (jp.Unstructured(0.6), statements.lowest_of_leaf(0.6), None),
    "output": (jp.Unstructured(0.6, per="output"), statements.lowest_of_rows(0.6), None),
    "2:4": (jp.NM(2, 4, axis="input"), statements.highest_of_groups(2), 4),
    "4:8": (jp.NM(4, 8, axis="input"), statements.highest_of_groups(4), 8),
}


def layer(outputs, inputs, batch=1, seed=0):
    """Weights, and the Gram matrix of inputs that are correlated and differ in size."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(batch, outputs, inputs)).astype(np.float32)
    mixed = np.eye(inputs) + rng.normal(size=(batch, inputs, inputs)) / np.sqrt(inputs)
    x = rng.normal(size=(batch, ROWS, inputs)) @ mixed * np.exp(rng.normal(size=inputs) / 2)
    x = x.astype(np.float32)
    return weights, np.einsum("bpi,bpj->bij", x, x)


def solved(weights, gram, spec, rows=ROWS, **options):
    new, kept = SparseGPT(**{"block": 32} | options).solve(weights, gram, rows, spec)
    return np.asarray(new), np.asarray(kept)


def error(new, weights, gram):
    return statements.layer_errors(new[0], weights[0], gram[0]).sum()


# The last block of 40 columns is short.
@pytest.mark.parametrize(
    ("name", "outputs", "inputs"),
    [*((name, 48, 40) for name in SPECS), ("leaf", 96, 128), ("2:4", 96, 128)],
)
def test_masks_and_weights_are_those_of_the_statement(name, outputs, inputs):
    spec, choose, group = SPECS[name]
    weights, gram = layer(outputs, inputs)
    gram[0, 3], gram[0, :, 3] = 0, 0
    new, kept = solved(weights, gram, spec)
    expected, mask = statements.sparsegpt(weights[0], gram[0], ROWS, choose, group=group, block=32)
    np.testing.assert_array_equal(kept[0], mask)
    np.testing.assert_allclose(new[0], expected, atol=5e-6)
    assert error(new, weights, gram) <= (1 + 1e-5) * error(expected[None], weights, gram)


def test_correlated_inputs_are_factorised_in_float64():
    """Inputs with a common mean of 100 times their spread: a condition number of 10^8."""
    weights, _ = layer(96, 128)
    x = np.random.default_rng(1).normal(loc=100, size=(ROWS, 128)).astype(np.float32)
    gram = (x.T.astype(np.float64) @ x)[None].astype(np.float32)
    _, kept = solved(weights, gram, jp.Unstructured(0.6), damping=1e-6)
    choose = statements.lowest_of_leaf(0.6)
    _, mask = statements.sparsegpt(weights[0], gram[0], ROWS, choose, damping=1e-6, block=32)
    np.testing.assert_array_equal(kept[0], mask)


def test_it_is_the_same_where_float64_is_allowed_everywhere(x64):
    weights, gram = layer(48, 40)
    expected, mask = solved(weights, gram, jp.Unstructured(0.6))
    with x64(True):
        new, kept = solved(weights, gram, jp.Unstructured(0.6))
    assert new.dtype == np.float32
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(new, expected, atol=1e-6)


def test_the_authors_count_removes_one_weight_more_of_each_block():
    weights, gram = layer(48, 40)
    new, kept = solved(weights, gram, jp.Unstructured(0.6), exact=False)
    choose = statements.above_threshold(0.6)
    expected, mask = statements.sparsegpt(weights[0], gram[0], ROWS, choose, block=32)
    np.testing.assert_array_equal(kept[0], mask)
    np.testing.assert_allclose(new[0], expected, atol=5e-6)
    assert (~kept).sum() == np.floor(0.6 * 48 * 32) + 1 + np.floor(0.6 * 48 * 8) + 1


@given(st.floats(0, 1, exclude_max=True, width=32), st.integers(0, 3))
def test_a_leaf_loses_exactly_its_budget(sparsity, seed):
    weights, gram = layer(48, 40, seed=seed)
    new, kept = solved(weights, gram, jp.Unstructured(sparsity))
    lost = min(int(np.floor(np.float32(sparsity) * np.float32(weights.size))), weights.size - 1)
    assert (~kept).sum() == lost
    assert (new[~kept] == 0).all()


@pytest.mark.parametrize("per", ["leaf", "output"])
def test_a_floor_is_kept(per):
    weights, gram = layer(48, 40)
    _, kept = solved(weights, gram, jp.Unstructured(0.999, per=per, min_nonzero=5))
    assert (kept.sum() if per == "leaf" else kept.sum(2).min()) == 5


def test_nothing_changes_at_a_sparsity_of_zero():
    weights, gram = layer(48, 40)
    new, kept = solved(weights, gram, jp.Unstructured(0.0))
    assert kept.all()
    np.testing.assert_array_equal(new, weights)


def test_matrices_of_a_batch_share_one_budget_to_the_weight():
    weights, gram = layer(3, 9, batch=5)
    _, kept = solved(weights, gram, jp.Unstructured(0.5))
    assert (~kept).sum() == 5 * 27 // 2
    assert set((~kept).sum((1, 2))) == {13, 14}


def test_matrices_of_a_batch_are_solved_as_if_alone():
    weights, gram = layer(48, 40, batch=2)
    rows = np.array([ROWS, ROWS // 2], np.float32)
    new, kept = solved(weights, gram, SPECS["2:4"][0], rows)
    for i in range(2):
        alone, mask = solved(weights[i : i + 1], gram[i : i + 1], SPECS["2:4"][0], rows[i])
        np.testing.assert_array_equal(kept[i], mask[0])
        np.testing.assert_allclose(new[i], alone[0], atol=5e-6)


def test_the_error_is_less_than_that_of_the_lowest_magnitudes():
    weights, gram = layer(48, 40)
    new, _ = solved(weights, gram, jp.Unstructured(0.6))
    plain, _ = jp.prune(weights, 0.6)
    assert error(new, weights, gram) < 0.7 * error(plain, weights, gram)


def test_inputs_that_are_always_zero_lose_their_weights_first():
    weights, gram = layer(48, 40)
    gram[0, 7], gram[0, :, 7] = 0, 0
    new, kept = solved(weights, gram, jp.Unstructured(0.2))
    assert not kept[0, :, 7].any()
    new, _ = solved(weights, gram, jp.Unstructured(0.0))
    assert (new[0, :, 7] == 0).all()


def test_a_matrix_that_was_never_used_is_pruned_by_magnitude():
    weights, gram = layer(48, 40)
    spec = jp.NM(2, 4, axis="input")
    new, kept = solved(weights, 0 * gram, spec, rows=0)
    np.testing.assert_array_equal(kept, jp.make_mask(abs(weights), jp.NM(2, 4, axis=-1)))
    np.testing.assert_array_equal(new, np.where(kept, weights, 0))


def test_half_precision_is_solved_in_float32():
    weights, gram = layer(48, 40)
    half = jnp.asarray(weights, jnp.bfloat16)
    new, kept = SparseGPT(block=32).solve(half, gram, ROWS, jp.Unstructured(0.6))
    wide, mask = solved(half.astype(jnp.float32), gram, jp.Unstructured(0.6))
    assert new.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_array_equal(new, wide.astype(jnp.bfloat16))


def test_a_block_is_rounded_up_to_whole_groups():
    weights, gram = layer(48, 40)
    new, kept = solved(weights, gram, jp.NM(2, 10, axis="input"), block=12)
    expected, mask = statements.sparsegpt(
        weights[0], gram[0], ROWS, statements.highest_of_groups(2), group=10, block=20
    )
    np.testing.assert_array_equal(kept[0], mask)
    np.testing.assert_allclose(new[0], expected, atol=5e-6)


def test_sparsities_and_n_are_data():
    weights, gram = layer(20, 24)
    before = _columns.solved_columns._cache_size()
    for sparsity in (0.1, 0.5, 0.7):
        solved(weights, gram, jp.Unstructured(sparsity), damping=sparsity)
    assert _columns.solved_columns._cache_size() == before + 1
    for n in (1, 2, 3):
        _, kept = solved(weights, gram, jp.NM(n, 4, axis="input"))
        assert (kept.reshape(20, 6, 4).sum(-1) == n).all()
    assert _columns.solved_columns._cache_size() == before + 2


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_outputs_may_be_spread_over_devices(axis_type):
    weights, gram = layer(48, 40)
    alone, mask = solved(weights, gram, jp.Unstructured(0.6))
    mesh = jax.make_mesh((8,), ("d",), (axis_type,))
    spread = NamedSharding(mesh, P(None, "d", None))
    new, kept = SparseGPT(block=32).solve(
        jax.device_put(weights, spread),
        jax.device_put(gram, NamedSharding(mesh, P())),
        ROWS,
        jp.Unstructured(0.6),
    )
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(new, alone, atol=1e-6)


class TestErrors:
    def test_what_cannot_be_factorised_names_a_damping_that_would_do(self):
        weights, _ = layer(48, 40)
        x = np.repeat(np.random.default_rng(0).normal(size=(ROWS, 1)), 40, 1).astype(np.float32)
        gram = (x.T @ x)[None]
        with pytest.raises(
            jp.PruningError, match=r"`a/kernel` reads cannot .* damping=0: damp"
        ) as e:
            SparseGPT(damping=0, block=32).solve(
                weights, gram, ROWS, jp.Unstructured(0.6), name="`a/kernel`"
            )
        enough = float(str(e.value).split("damping=")[2].split()[0])
        new, _ = solved(weights, gram, jp.Unstructured(0.6), damping=enough)
        assert np.isfinite(new).all()

    def test_sums_that_are_not_finite(self):
        weights, gram = layer(48, 40)
        gram[0, 2, 2] = np.nan
        with pytest.raises(jp.PruningError, match="not finite, in 1 of 1 matrices"):
            solved(weights, gram, jp.Unstructured(0.6))

    def test_weights_that_are_not_finite(self):
        weights, gram = layer(48, 40)
        weights[0, 1, 2] = np.nan
        with pytest.raises(jp.PruningError, match="weights of the leaf are NaN or infinite"):
            solved(weights, gram, jp.Unstructured(0.6))

    def test_no_damping_would_do(self):
        weights, gram = layer(48, 40)
        with pytest.raises(jp.PruningError, match="no damping would do"):
            solved(weights, -1e6 * gram, jp.Unstructured(0.6))

    @pytest.mark.parametrize(
        ("weights", "gram", "rows", "words"),
        [
            ((4, 8), (1, 8, 8), 1, r"matrices \[batch, out, in\].*got the shape \(4, 8\)"),
            ((1, 0, 8), (1, 8, 8), 1, "at least one weight"),
            ((1, 4, 8), (1, 4, 4), 1, r"sums of products have the shape \(1, 8, 8\), got"),
            ((1, 4, 8), (1, 8, 8), np.ones(3), "one number or 1 for"),
        ],
    )
    def test_shapes_that_do_not_fit(self, weights, gram, rows, words):
        with pytest.raises(jp.PruningError, match=words):
            solved(np.ones(weights, np.float32), np.ones(gram, np.float32), jp.NM(2, 4), rows)

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            (jp.NM(2, 7, axis="input"), "40 inputs, not divisible by m=7"),
            (jp.Unstructured(0.5, min_nonzero=9999), "min_nonzero=9999 weights of only 1920"),
            (jp.Rows(0.5), "Wanda scores weights for any spec"),
            (jp.Unstructured(0.5, per="global"), "share it out first, with jp.allocate"),
            (jp.NM(2, 4, axis=None), "from one row into the next"),
        ],
    )
    def test_specs_that_it_cannot_mean(self, spec, words):
        with pytest.raises(jp.InvalidPattern, match=words):
            solved(*layer(48, 40), spec)

    def test_options_that_make_no_sense(self):
        with pytest.raises(jp.PruningError, match=r"damping is the fraction.*got -1"):
            SparseGPT(damping=-1)
        with pytest.raises(jp.PruningError, match="block is 1 or more columns, got 0"):
            SparseGPT(block=0)
        assert "no budget for each output" in refused(
            jp.Unstructured(0.5, per="output"), exact=False
        )


class TestMatrixWords:
    LEAF = Leaf("a", jax.ShapeDtypeStruct((4, 8, 16), jnp.float32))

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            (jp.Unstructured(0.5), jp.Unstructured(0.5)),
            (jp.Unstructured(0.5, per=-1), jp.Unstructured(0.5, per="output")),
            (jp.NM(2, 4, axis=(0, 1)), jp.NM(2, 4, axis="input")),
            (jp.NM(2, 4, axis=1), jp.NM(2, 4, axis="input")),
        ],
    )
    def test_axes_of_attention_become_words(self, spec, expected):
        assert in_matrix_words(spec, self.LEAF, inputs=(0, 1), outputs=(2,)) == expected

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            (jp.NM(2, 4, axis=0), r"needs them along its inputs, axis \(0, 1\): write axis="),
            (jp.NM(2, 4, axis=2), r"groups of 4 along axis 2"),
            (jp.Unstructured(0.5, per=0), "needs one for each output, axis 2, or for the leaf"),
        ],
    )
    def test_others_are_refused(self, spec, words):
        problem = in_matrix_words(spec, self.LEAF, inputs=(0, 1), outputs=(2,))
        with pytest.raises(jp.InvalidPattern, match=words):
            raise problem.kind(problem.message)

    def test_each_matrix_of_a_batch_has_outputs_of_its_own(self):
        both = in_matrix_words(
            jp.Unstructured(0.5, per=(0, 2)), self.LEAF, inputs=(1,), outputs=(2,), batch=(0,)
        )
        assert both == jp.Unstructured(0.5, per="output")

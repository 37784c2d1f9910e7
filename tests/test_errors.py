"""Bad input: every error by its kind and its words: where, the expected, what came, the remedy."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

NAN, INF = float("nan"), float("inf")
WEIGHTS = jnp.arange(1.0, 31.0).reshape(5, 6)
PARAMS = {
    "decoder": {"kernel": jnp.ones((2, 3, 4))},
    "encoder": {"bias": jnp.ones(6), "kernel": WEIGHTS},
}
INTEGERS = {"step": jnp.arange(3), "flags": jnp.ones((4, 4), bool), "name": "model", "hole": None}
SPECS = {
    "Unstructured": jp.Unstructured(0.5),
    "global": jp.Unstructured(0.5, per="global"),
    "per axis": jp.Unstructured(0.5, per=-1),
    "Rows": jp.Rows(0.5),
    "Columns": jp.Columns(0.5),
    "Channels": jp.Channels(0.5),
    "Block": jp.Block(0.5, (1, 2)),
    "NM": jp.NM(1, 2),
}
WITH_SPARSITY = {name: spec for name, spec in SPECS.items() if name != "NM"}


def shapes(**leaves):
    """A tree of shapes: nothing can be computed from it, so an error came before any work."""
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}


def raised(kind, function, *args, **kwargs):
    """The words of the error, which is of this very kind."""
    with pytest.raises(jp.PruningError) as caught:
        function(*args, **kwargs)
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {caught.value}"
    return str(caught.value)


def says(text, *words):
    """The text holds the words, in their order."""
    place = 0
    for word in words:
        assert word in text[place:], f"{word!r} is missing, or out of place, in: {text}"
        place = text.index(word, place) + len(word)


ALL_KINDS = [
    jp.InvalidSparsity,
    jp.EmptyTensor,
    jp.NotTwoDimensional,
    jp.BelowMinNonzero,
    jp.InvalidPattern,
    jp.NoMatch,
    jp.StructureMismatch,
]


def test_every_kind_is_a_pruning_error_and_a_value_error():
    assert jp.PruningError.__mro__[1] is ValueError
    for kind in ALL_KINDS:
        assert kind.__bases__ == (jp.PruningError,)


# --- a sparsity that is none --------------------------------------------------------------------

BAD_SPARSITIES = [
    -0.1,
    -1,
    1.0,
    1,
    1.5,
    90,
    NAN,
    INF,
    -INF,
    True,
    0.99999999,
    np.float64(0.99999999),
]
BAD_SPARSITIES += [np.float32(1.0), np.float16(-0.5), np.int32(1), np.array(1.0), np.array(NAN)]
BAD_SPARSITIES += [jnp.array(1.5), jnp.array(-1), "0.5", "half", None, 1j, [0.5], (0.5,)]
BAD_SPARSITIES += [np.array([0.1, 0.5]), jnp.array([0.5]), np.ones((1, 1)) / 2]


@pytest.mark.parametrize("value", BAD_SPARSITIES, ids=repr)
@pytest.mark.parametrize("name", WITH_SPARSITY, ids=str)
def test_sparsity_of_a_spec(name, value):
    def mask():
        return jp.make_mask(WEIGHTS, dataclasses.replace(SPECS[name], sparsity=value))

    says(
        raised(jp.InvalidSparsity, mask), "fraction removed", "[0, 1)", f"got {value!r}"[:60], "0.9"
    )


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, NAN, "0.5", True], ids=repr)
def test_a_sparsity_that_is_typed_is_judged_where_it_is_typed(value):
    for spec in (jp.Unstructured, jp.Rows, jp.Columns, jp.Channels):
        says(raised(jp.InvalidSparsity, spec, value), "[0, 1)", f"got {value!r}")
    says(raised(jp.InvalidSparsity, jp.Block, value, (2, 2)), "[0, 1)", f"got {value!r}")


@pytest.mark.parametrize("value", [-0.1, 1.0, 2, NAN, 0.99999999, jnp.array(1.5), "0.5"], ids=repr)
def test_a_lone_number_for_a_spec(value):
    for function in (jp.make_mask, jp.prune, jp.plan):
        for tree, spec in ((WEIGHTS, value), (PARAMS, value), (PARAMS, {"encoder/*": value})):
            says(raised(jp.InvalidSparsity, function, tree, spec), f"got {value!r}")


def test_several_sparsities_in_place_of_one():
    several = np.array([0.1, 0.5])
    says(raised(jp.InvalidSparsity, jp.make_mask, WEIGHTS, jp.Rows(several)), "one number", "vmap")
    jitted = jax.jit(lambda s: jp.make_mask(WEIGHTS, jp.Rows(s)))
    says(raised(jp.InvalidSparsity, jitted, several), "one number", "vmap")
    assert raised(jp.InvalidSparsity, jp.allocate, PARAMS, several)


@pytest.mark.parametrize(
    "value", [0, -0.0, 0.5, np.float16(0.5), np.float64(0.5), np.array(0.5)], ids=repr
)
def test_numbers_of_every_kind_are_sparsities(value):
    expected = 30 if float(value) == 0 else 15
    assert int(jp.make_mask(WEIGHTS, value).sum()) == expected
    assert int(jp.make_mask(WEIGHTS, jp.Unstructured(jnp.asarray(value))).sum()) == expected


def test_a_sparsity_known_under_jit_is_checked_there():
    known = jnp.asarray(1.5)
    jitted = jax.jit(lambda scores: jp.make_mask(scores, jp.Rows(known)))
    says(raised(jp.InvalidSparsity, jitted, WEIGHTS), "[0, 1)", "1.5")


# --- fields of a spec ---------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(3, 2), (5, 4), (0, 4), (1, 0), (0, 0)])
def test_n_of_m_that_makes_no_sense(n, m):
    text = raised(jp.InvalidPattern, jp.NM, n, m)
    says(text, f"NM({n}, {m})", "1 <= n <= m", "NM(2, 4)")


@pytest.mark.parametrize(
    ("n", "m", "got"),
    [
        (-1, 4, "-1"),
        (2, -4, "-4"),
        (2.0, 4, "2.0"),
        (2, 4.0, "4.0"),
        ("2", 4, "'2'"),
        (True, 4, "True"),
    ],
)
def test_n_or_m_that_is_no_count(n, m, got):
    says(raised(jp.InvalidPattern, jp.NM, n, m), "integer", f"got {got}")


@pytest.mark.parametrize(
    "shape", [16, (4,), (4, 4, 4), (0, 4), (4, -4), (4.0, 4), "44", None, (True, 2)], ids=repr
)
def test_shape_of_a_block(shape):
    text = raised(jp.InvalidPattern, jp.Block, 0.5, shape)
    says(text, "two positive integers", f"got {shape!r}", "Block(0.5, (16, 16))")


@pytest.mark.parametrize("axis", ["in", 1.0, True, (0, 0), (), (0, "in")], ids=repr)
def test_axis_that_is_none(axis):
    for name, build in (
        ("axis", lambda: jp.Channels(0.5, axis=axis)),
        ("axis", lambda: jp.NM(2, 4, axis=axis)),
        ("per", lambda: jp.Unstructured(0.5, per=axis)),
    ):
        text = raised(jp.InvalidPattern, build)
        says(text, name, "an integer", '"input"', '"output"', f"got {axis!r}")


def test_axis_none_is_for_n_of_m_alone():
    says(raised(jp.InvalidPattern, jp.Channels, 0.5, axis=None), "axis", "got None")
    says(raised(jp.InvalidPattern, jp.Unstructured, 0.5, per=None), "per", "got None")
    assert jp.NM(2, 4, axis=None).axis is None


@pytest.mark.parametrize("reduce", ["median", "SUM", None, max], ids=repr)
@pytest.mark.parametrize("spec", [jp.Rows, jp.Columns, jp.Channels], ids=lambda c: c.__name__)
def test_reduce_that_is_none(spec, reduce):
    text = raised(jp.InvalidPattern, spec, 0.5, reduce=reduce)
    says(text, "'sum', 'mean', 'l2', 'max'", f"got {reduce!r}")


@pytest.mark.parametrize("floor", [-1, 1.5, True, "1", None], ids=repr)
@pytest.mark.parametrize("name", WITH_SPARSITY, ids=str)
def test_min_nonzero_that_is_no_count(name, floor):
    text = raised(jp.BelowMinNonzero, dataclasses.replace, SPECS[name], min_nonzero=floor)
    says(text, "min_nonzero", "integer of 0 or more", f"got {floor!r}")


# --- a leaf that cannot hold a spec -------------------------------------------------------------

MISFITS = [
    (jp.Rows(0.5), (), jp.NotTwoDimensional, "has shape () Rows needs 2 dimensions"),
    (jp.Rows(0.5), (5,), jp.NotTwoDimensional, "has shape (5,) Rows needs 2 dimensions"),
    (
        jp.Rows(0.5),
        (2, 3, 4, 5),
        jp.NotTwoDimensional,
        "(2, 3, 4, 5) Rows Channels(..., axis=0)",
    ),
    (jp.Columns(0.5), (5,), jp.NotTwoDimensional, "(5,) Columns needs 2 dimensions"),
    (jp.Columns(0.5), (2, 3, 4), jp.NotTwoDimensional, "(2, 3, 4) Columns Channels(..., axis=1)"),
    (
        jp.NM(2, 4),
        (8, 30),
        jp.InvalidPattern,
        "30 along axis -1 not divisible by m=4 another axis",
    ),
    (
        jp.NM(2, 4, axis=-2),
        (30, 8),
        jp.InvalidPattern,
        "30 along axis -2 not divisible by m=4",
    ),
    (jp.NM(2, 4, axis=0), (3, 8, 8), jp.InvalidPattern, "3 along axis 0 not divisible by m=4"),
    (jp.NM(2, 4, axis=None), (3, 5), jp.InvalidPattern, "15 row-major not divisible by m=4"),
    (jp.NM(2, 4, axis=2), (8, 8), jp.InvalidPattern, "(8, 8) no axis 2 another axis"),
    (
        jp.NM(2, 4, axis="input"),
        (8,),
        jp.InvalidPattern,
        "(8,) which of its axes is the input uses=",
    ),
    (jp.NM(2, 4), (), jp.InvalidPattern, "() no axis -1"),
    (jp.NM(2, 4), (0, 8), jp.EmptyTensor, "(0, 8) no weights"),
    (jp.NM(2, 4), (8, 0), jp.EmptyTensor, "(8, 0) no weights"),
    (jp.Channels(0.5, axis=3), (5, 6), jp.InvalidPattern, "(5, 6) no axis 3"),
    (jp.Channels(0.5, axis=-3), (5, 6), jp.InvalidPattern, "(5, 6) no axis -3"),
    (
        jp.Channels(0.5, axis="output"),
        (5,),
        jp.InvalidPattern,
        "which of its axes is the output uses=",
    ),
    (jp.Channels(0.5), (), jp.InvalidPattern, "() no axis -1"),
    (jp.Unstructured(0.5, per=2), (5, 6), jp.InvalidPattern, "(5, 6) no axis 2"),
    (
        jp.Unstructured(0.5, per="input"),
        (5,),
        jp.InvalidPattern,
        "(5,) which of its axes is the input",
    ),
    (jp.Block(0.5, (4, 4)), (5,), jp.InvalidPattern, "(5,) Block needs 2 dimensions"),
    (
        jp.Block(0.5, (4, 4)),
        (8, 6),
        jp.InvalidPattern,
        "8x6 not divisible 4x4 another shape",
    ),
    (jp.Block(0.5, (4, 4)), (2, 3, 4), jp.InvalidPattern, "3x4 not divisible into blocks of 4x4"),
    *[(spec, (0, 6), jp.EmptyTensor, "(0, 6) no weights") for spec in WITH_SPARSITY.values()],
    *[
        (
            dataclasses.replace(spec, min_nonzero=31),
            (5, 6),
            jp.BelowMinNonzero,
            "min_nonzero=31 30",
        )
        for name, spec in WITH_SPARSITY.items()
        if name != "per axis"
    ],
    (
        jp.Unstructured(0.5, per=-1, min_nonzero=6),
        (5, 6),
        jp.BelowMinNonzero,
        "min_nonzero=6 5 lower it",
    ),
]


def _label(value):
    return "" if isinstance(value, type) else str(value).replace("jaxprune", "jp")


@pytest.mark.parametrize(("spec", "shape", "kind", "words"), MISFITS, ids=_label)
class TestMisfit:
    def test_a_leaf_by_its_path(self, spec, shape, kind, words):
        tree = shapes(**{"net/layer": shape})
        text = raised(kind, jp.make_mask, tree, spec, where=jp.any_leaf)
        says(text, "`net/layer`", *words.split())
        assert raised(kind, jp.plan, tree, spec, where=jp.any_leaf) == text

    def test_a_bare_array_as_such(self, spec, shape, kind, words):
        text = raised(kind, jp.make_mask, jax.ShapeDtypeStruct(shape, jnp.float32), spec)
        says(text, "the array", *words.split())

    def test_a_rule_by_its_leaf(self, spec, shape, kind, words):
        tree = shapes(good=(8, 8), bad=shape)
        rules = {"bad": spec, "*": 0.5}
        says(raised(kind, jp.make_mask, tree, rules, where=jp.any_leaf), "`bad`", *words.split())

    def test_under_jit(self, spec, shape, kind, words):
        def mask(scores, sparsity):
            if hasattr(spec, "sparsity"):
                return jp.make_mask(scores, dataclasses.replace(spec, sparsity=sparsity))
            return jp.make_mask(scores, spec)

        says(raised(kind, jax.eval_shape, mask, jnp.ones(shape), 0.5), "the array", *words.split())

    def test_as_one_of_many(self, spec, shape, kind, words):
        tree = shapes(a=shape, b=(8, 16), c=shape)
        text = raised(kind, jp.make_mask, tree, spec, where=["a", "c"])
        says(text, "2 problems", "`a`", *words.split(), "`c`", *words.split())


def test_a_channel_axis_counts_from_both_ends():
    for axis in (0, 1, -1, -2, "input", "output"):
        assert jp.make_mask(WEIGHTS, jp.Channels(0.5, axis=axis)).shape == (5, 6)


def test_all_bad_leaves_in_one_error_whatever_is_wrong_with_them():
    tree = shapes(a=(5,), b=(4, 4), c=(0, 4), d=(2, 2), e=(2, 3, 4))
    text = raised(
        jp.NotTwoDimensional, jp.make_mask, tree, jp.Rows(0.5, min_nonzero=5), where=jp.any_leaf
    )
    lines = text.splitlines()
    says(lines[0], "4")
    assert len(lines) == 5
    says(lines[1], "`a` has shape (5,), and Rows needs 2 dimensions")
    says(lines[2], "EmptyTensor: `c`")
    says(lines[3], "BelowMinNonzero: `d`")
    says(lines[4], "`e` has shape (2, 3, 4), and Rows needs 2 dimensions")
    assert "`b`" not in text


# --- before any work ----------------------------------------------------------------------------


def test_make_mask_computes_nothing_before_it_refuses():
    tree = shapes(a=(8, 8), z=(8, 6))  # `a` would do, and would be pruned first
    says(raised(jp.InvalidPattern, jp.make_mask, tree, jp.NM(2, 4)), "`z`")


def test_apply_mask_computes_nothing_before_it_refuses():
    mask = {"a": jnp.ones((8, 8), bool), "z": jnp.ones((6, 8), bool)}
    says(raised(jp.StructureMismatch, jp.apply_mask, shapes(a=(8, 8), z=(8, 6)), mask), "`z`")


@pytest.mark.parametrize(
    "wrong",
    [
        {"spec": jp.Rows(0.5)},
        {"spec": 1.5},
        {"spec": "0.5"},
        {"spec": {"nothing": 0.5}},
        {"spec": 0.5, "where": "nothing"},
        {"spec": jp.Unstructured(0.5, min_nonzero=1000)},
    ],
    ids=str,
)
def test_prune_scores_nothing_before_it_refuses(wrong):
    scored = []

    def metric(weights):
        scored.append(weights.shape)
        return jnp.abs(weights)

    with pytest.raises(jp.PruningError):
        jp.prune({"kernel": jnp.ones((2, 3, 4))}, **wrong, metric=metric)
    assert scored == []


def test_what_was_passed_is_as_it_was():
    params = {"kernel": WEIGHTS, "odd": jnp.ones((3, 3))}
    with pytest.raises(jp.InvalidPattern):
        jp.prune(params, jp.NM(1, 2))
    assert params["kernel"] is WEIGHTS
    assert int((WEIGHTS == 0).sum()) == 0


# --- not a spec, not a metric -------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls",
    [jp.Unstructured, jp.Rows, jp.Columns, jp.Channels, jp.Block, jp.NM],
    ids=lambda c: c.__name__,
)
def test_a_class_in_place_of_a_spec(cls):
    for spec in (cls, {"encoder/*": cls}):
        text = raised(jp.PruningError, jp.make_mask, PARAMS, spec)
        says(
            text,
            "jp.Unstructured(0.5)",
            "got <class",
            f"{cls.__name__} is a class: write {cls.__name__}(",
        )


@pytest.mark.parametrize(
    "cls", [jp.L1, jp.L2, jp.TaylorProxy, jp.Random, jp.LCG], ids=lambda c: c.__name__
)
def test_a_class_in_place_of_a_metric(cls):
    text = raised(jp.PruningError, jp.importance, PARAMS, cls)
    says(text, "jp.L1()", "got <class", f"{cls.__name__} is a class: write {cls.__name__}(")


@pytest.mark.parametrize("metric", ["l1", None, 3, jp.Rows(0.5)], ids=repr)
def test_no_metric(metric):
    says(
        raised(jp.PruningError, jp.importance, PARAMS, metric),
        "a metric",
        "jp.L1()",
        f"got {metric!r}",
    )


@pytest.mark.parametrize(
    ("metric", "got"),
    [
        (lambda weights: weights.sum(), "float32[]"),
        (lambda weights: weights > 0, "bool[5, 6]"),
        (lambda weights: weights.astype(int), "int32[5, 6]"),
        (lambda weights: 3, "3"),
        (lambda weights: None, "None"),
    ],
    ids=["a sum", "booleans", "integers", "a number", "None"],
)
def test_a_function_that_does_not_score(metric, got):
    text = raised(jp.PruningError, jp.importance, PARAMS["encoder"], metric)
    says(
        text,
        "floating scores of the shape",
        "`kernel` has shape (5, 6)" if "5" in got else "`",
        got,
    )


@pytest.mark.parametrize(
    "spec",
    [object(), jp.L1, jp.importance, [object()]],
    ids=["object", "metric", "function", "list"],
)
def test_no_spec(spec):
    says(raised(jp.PruningError, jp.make_mask, PARAMS, spec), "expected a spec", "got ")


@pytest.mark.parametrize("spec", [{}, [], (), None, jp.L1()], ids=repr)
def test_no_spec_at_all(spec):
    for function in (jp.make_mask, jp.prune, jp.plan):
        assert raised(jp.NoMatch, function, PARAMS, spec)


@pytest.mark.parametrize("spec", [{"*": None}, {"encoder/*": None, "decoder": None}], ids=repr)
def test_rules_that_leave_everything_dense(spec):
    """A call that prunes nothing is refused, also if each of its rules does what it says."""
    for function in (jp.make_mask, jp.prune, jp.plan):
        assert raised(jp.NoMatch, function, PARAMS, spec)


# --- nothing to prune ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree", [{}, [], None, INTEGERS, {"kernel": None}], ids=["{}", "[]", "None", "integers", "hole"]
)
@pytest.mark.parametrize(
    "function",
    [
        lambda tree: jp.importance(tree, jp.L1()),
        lambda tree: jp.make_mask(tree, 0.5),
        lambda tree: jp.prune(tree, 0.5),
        lambda tree: jp.plan(tree, 0.5),
        lambda tree: jp.plan(tree, 0.5, where=jp.any_leaf),
        jp.mask_from_zeros,
        jp.report,
        jp.stats,
        lambda tree: jp.top_scores(tree, 3),
        lambda tree: jp.allocate(tree, 0.5),
    ],
    ids=[
        "importance",
        "make_mask",
        "prune",
        "plan",
        "plan all",
        "mask_from_zeros",
        "report",
        "stats",
        "top",
        "allocate",
    ],
)
def test_a_tree_without_floats(function, tree):
    text = raised(jp.NoMatch, function, tree)
    assert re.search("nothing|no scores|none of the leaves|no leaves", text), text


def test_the_reasons_are_told_and_counted():
    params = {
        **INTEGERS,
        "bias": jnp.ones(3),
        "norm": {"scale": jnp.ones((3, 3))},
        "b": jnp.ones(2),
    }
    text = raised(jp.NoMatch, jp.prune, params, 0.5)
    says(text, "none of the leaves", "rank 1 (2)")
    for reason in (
        "dtype int32 (1)",
        "dtype bool (1)",
        "not an array (1)",
        "empty place (1)",
        "norm scale",
    ):
        assert reason in text
    says(text, "where=jp.any_leaf")


def test_importance_says_what_parameters_are():
    text = raised(jp.NoMatch, jp.importance, INTEGERS, jp.L1())
    says(text, "4 leaves", "variables['params']", "nnx.state(model, nnx.Param)")


# --- patterns and where -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "suggestion"),
    [
        ("encoder/kernal", "`encoder/kernel`"),
        ("encodr/*", "`encoder/"),
        ("decoder/kernel_0", "`decoder/kernel`"),
        ("kernel", "kernel`"),
        ("Encoder/kernel", "`encoder/kernel`"),
        (re.compile("encoder/kernal"), "`encoder/kernel`"),
    ],
    ids=str,
)
def test_a_typo_with_what_was_meant(pattern, suggestion):
    text = getattr(pattern, "pattern", pattern)
    for refused in (
        raised(jp.NoMatch, jp.make_mask, PARAMS, 0.5, where=pattern),
        raised(jp.NoMatch, jp.make_mask, PARAMS, 0.5, where=["*", pattern]),
        raised(jp.NoMatch, jp.make_mask, PARAMS, {"*": 0.5, pattern: 0.9}),
        raised(jp.NoMatch, jp.allocate, PARAMS, 0.5, overrides={pattern: 0.9}),
        raised(jp.NoMatch, jp.report, PARAMS, where=pattern),
        raised(jp.NoMatch, jp.mask_from_zeros, PARAMS, where=pattern),
    ):
        says(refused, f"pattern {text!r} matches no leaf", "Did you mean", suggestion)


def test_a_pattern_like_nothing_gets_the_paths_there_are():
    text = raised(jp.NoMatch, jp.make_mask, PARAMS, 0.5, where="zzz")
    says(text, "'zzz'", "`decoder/kernel`, `encoder/bias`, `encoder/kernel`")


def test_many_paths_are_not_all_shown():
    many = {f"layer_{i}": {"kernel": WEIGHTS} for i in range(50)}
    assert len(raised(jp.NoMatch, jp.make_mask, many, 0.5, where="zzz")) < 250


@pytest.mark.parametrize(
    "text", [".*/kernel", r"encoder/\w+", "(encoder|decoder)/kernel", "^encoder.*", "kernel$"]
)
def test_a_regular_expression_given_as_text(text):
    for refused in (
        raised(jp.NoMatch, jp.make_mask, PARAMS, 0.5, where=text),
        raised(jp.NoMatch, jp.make_mask, PARAMS, {text: 0.5}),
    ):
        says(refused, f"pattern {text!r}", "shell pattern", "re.compile(...)", "regular expression")


@pytest.mark.parametrize("text", [".*/kernal", r"encoder/\d+", "kernel$"])
def test_a_regular_expression_that_is_one_is_not_told_to_become_one(text):
    for refused in (
        raised(jp.NoMatch, jp.make_mask, PARAMS, 0.5, where=re.compile(text)),
        raised(jp.NoMatch, jp.make_mask, PARAMS, {re.compile(text): 0.5}),
        raised(jp.NoMatch, jp.allocate, PARAMS, 0.5, overrides={re.compile(text): 0.5}),
    ):
        assert repr(text) in refused
        assert "re.compile" not in refused


def test_all_patterns_that_match_nothing_at_once():
    text = raised(jp.NoMatch, jp.make_mask, PARAMS, 0.5, where=["encodr", "*", "decodr"])
    says(text, "'encodr'", "'decodr'")
    text = raised(jp.NoMatch, jp.make_mask, PARAMS, {"encodr": 0.5, "*": 0.5, "decodr": 0.9})
    says(text, "'encodr'", "'decodr'")


@pytest.mark.parametrize("where", [None, 3, [], (), {"encoder"}, [3], ["*", None], True], ids=repr)
def test_where_that_is_none(where):
    for function in (jp.make_mask, jp.prune, jp.plan):
        text = raised(jp.PruningError, function, PARAMS, 0.5, where=where)
        says(text, "where=", "predicate on (path, leaf)", "path patterns", "jp.any_leaf")


def test_where_that_takes_nothing():
    text = raised(jp.NoMatch, jp.make_mask, PARAMS, 0.5, where=lambda path, leaf: False)
    says(text, "none of the leaves", "left out by where= (3)")


def test_a_rule_that_an_earlier_one_leaves_nothing_to():
    text = raised(jp.NoMatch, jp.make_mask, PARAMS, {"encoder/*": 0.5, "encoder/kernel": 0.9})
    says(text, "'encoder/kernel'", "taken by an earlier rule (1)", "before the rules that take")


def test_a_rule_for_a_leaf_that_where_leaves_out():
    text = raised(jp.NoMatch, jp.make_mask, PARAMS, {"encoder/bias": 0.5, "*": 0.5})
    says(text, "'encoder/bias'", "rank 1 (1)", "where=")


def test_a_spec_tree_of_another_structure():
    text = raised(
        jp.NoMatch, jp.make_mask, PARAMS, {"encoder": {"kernal": 0.5}, "decoder": jp.NM(1, 2)}
    )
    says(text, "encoder/kernal", "Did you mean `encoder/kernel`")


# --- keys and seeds -----------------------------------------------------------------------------

GOOD_KEYS = {
    "typed": lambda: jax.random.key(0),
    "legacy": lambda: jax.random.PRNGKey(0),
    "legacy as NumPy": lambda: np.array([0, 0], np.uint32),
    "another generator": lambda: jax.random.key(0, impl="rbg"),
}


@pytest.mark.parametrize("kind", GOOD_KEYS, ids=str)
def test_keys_of_both_kinds_are_taken(kind):
    scores = jp.importance(WEIGHTS, jp.Random(GOOD_KEYS[kind]()))
    assert scores.shape == (5, 6)
    assert len(np.unique(scores)) > 20


def test_a_typed_and_a_legacy_key_give_the_same_scores():
    ours, theirs = (jp.importance(WEIGHTS, jp.Random(GOOD_KEYS[k]())) for k in ("typed", "legacy"))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("key", "got"),
    [
        (0, "got 0"),
        (None, "got None"),
        ("a", "got 'a'"),
        (jnp.zeros(2), "got float32[2]"),
        (np.zeros((), np.uint32), "got uint32[]"),
        (np.zeros(3, np.uint32), "got uint32[3]"),
        (np.zeros((4, 2), np.uint32), "got uint32[4, 2]"),
    ],
    ids=repr,
)
def test_no_key(key, got):
    text = raised(jp.PruningError, jp.importance, WEIGHTS, jp.Random(key))
    says(text, "expected one PRNG key", got, "jp.Random(jax.random.key(0))")


def test_several_keys_in_place_of_one():
    keys = jax.random.split(jax.random.key(0), 3)
    says(
        raised(jp.PruningError, jp.importance, WEIGHTS, jp.Random(keys)),
        "one PRNG key",
        "[3]",
        "vmap",
    )
    scores = jax.vmap(lambda key: jp.importance(WEIGHTS, jp.Random(key)))(keys)
    assert scores.shape == (3, 5, 6)


@pytest.mark.parametrize(
    "seed", [-1, 2**64, 1.0, "1", None, True, np.int64(-1), jnp.int32(3)], ids=repr
)
def test_a_seed_that_is_none(seed):
    text = raised(jp.PruningError, jp.LCG, seed)
    says(text, "seed", "Python integer in [0, 2**64)", "before compilation", f"got {seed!r}")


@pytest.mark.parametrize("seed", [0, 2**64 - 1, np.uint64(2**64 - 1), np.int8(3)], ids=repr)
def test_a_seed_of_64_bits(seed):
    assert jp.importance(WEIGHTS, jp.LCG(seed)).shape == (5, 6)


# --- tracers where a value is needed ------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (jp.LCG, jp.PruningError, "known before compilation, got"),
        (lambda v: jp.NM(2, v), jp.InvalidPattern, "m is known when the spec is written, got"),
        (
            lambda v: jp.NM(2, 4, axis=v),
            jp.InvalidPattern,
            "axis is known when the spec is written, got",
        ),
        (
            lambda v: jp.Channels(0.5, axis=v),
            jp.InvalidPattern,
            "axis known when the spec is written",
        ),
        (
            lambda v: jp.Unstructured(0.5, per=v),
            jp.InvalidPattern,
            "per known when the spec is written",
        ),
        (lambda v: jp.Block(0.5, (v, 2)), jp.InvalidPattern, "two positive integers, got"),
        (lambda v: jp.Rows(0.5, min_nonzero=v), jp.BelowMinNonzero, "min_nonzero known when"),
        (
            lambda v: jp.top_scores(WEIGHTS, v),
            jp.PruningError,
            "k is a positive Python integer, got",
        ),
        (lambda v: jp.top_scores(WEIGHTS + v, 3), jp.PruningError, "tracer top_scores outside jit"),
        (
            lambda v: jp.report(WEIGHTS + v),
            jp.PruningError,
            "the array is a tracer report outside jit",
        ),
        (lambda v: jp.report({"w": WEIGHTS + v}), jp.PruningError, "`w` tracer report outside jit"),
        (
            lambda v: jp.allocate(PARAMS, v / 2),
            jp.InvalidSparsity,
            "allocate known tracer outside jit",
        ),
        (
            lambda v: jp.allocate(PARAMS, 0.5, overrides={"encoder/*": v / 2}),
            jp.InvalidSparsity,
            "allocate known tracer outside jit",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tracer_where_a_value_is_needed(function, kind, words):
    says(raised(kind, jax.eval_shape, lambda v: (function(v), v)[1], 1), *words.split())


def test_report_of_a_traced_mask():
    def report(mask):
        jp.report({"w": WEIGHTS}, {"w": mask})
        return mask

    says(
        raised(jp.PruningError, jax.eval_shape, report, WEIGHTS > 3), "`w`", "tracer", "outside jit"
    )


def test_report_of_shapes_alone():
    says(
        raised(jp.PruningError, jp.report, shapes(w=(4, 4))),
        "expected arrays",
        "description",
        "jp.plan",
    )


# --- masks --------------------------------------------------------------------------------------

MASK = {"decoder": {"kernel": None}, "encoder": {"bias": None, "kernel": WEIGHTS > 3}}


def masked(**changes):
    return {**MASK, "encoder": {**MASK["encoder"], **changes}}


@pytest.mark.parametrize("function", [jp.apply_mask, jp.report], ids=lambda f: f.__name__)
class TestMask:
    def test_of_another_structure(self, function):
        mask = {"encoder": {"kernel": WEIGHTS > 3, "extra": None}, "decoder": {"kernel": None}}
        text = raised(jp.StructureMismatch, function, PARAMS, mask)
        says(text, "mask", "missing `encoder/bias`", "unexpected `encoder/extra`", "None")

    def test_that_is_empty(self, function):
        text = raised(jp.StructureMismatch, function, PARAMS, {})
        says(text, "missing `decoder/kernel`, `encoder/bias`, `encoder/kernel`")

    def test_of_a_bare_array_for_a_tree_and_the_other_way_round(self, function):
        says(raised(jp.StructureMismatch, function, PARAMS, WEIGHTS > 3), "mask", "missing")
        text = raised(jp.StructureMismatch, function, WEIGHTS, MASK)
        says(text, "mask", "unexpected `decoder/kernel`")

    @pytest.mark.parametrize("shape", [(6, 5), (6,), (5, 1), (30,), ()], ids=str)
    def test_of_another_shape(self, function, shape):
        mask = masked(kernel=jnp.ones(shape, bool))
        text = raised(jp.StructureMismatch, function, PARAMS, mask)
        says(text, "`encoder/kernel` has shape (5, 6)", f"mask {shape}", "from these parameters")

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8, jnp.int32], ids=lambda d: d.__name__)
    def test_of_another_dtype(self, function, dtype):
        mask = masked(kernel=jnp.ones((5, 6), dtype))
        text = raised(jp.StructureMismatch, function, PARAMS, mask)
        says(text, "`encoder/kernel`", f"dtype {dtype.__name__}", "expected bool", "astype(bool)")

    def test_that_is_still_packed(self, function):
        text = raised(jp.StructureMismatch, function, PARAMS, jp.pack(MASK))
        says(text, "`encoder/kernel`", "uint8", "unpack")

    def test_that_is_no_array(self, function):
        text = raised(jp.StructureMismatch, function, PARAMS, masked(kernel="kept"))
        says(text, "`encoder/kernel`", "str", "expected bool")

    def test_where_there_is_no_array(self, function):
        params = {"kernel": WEIGHTS, "name": 3}
        mask = {"kernel": WEIGHTS > 3, "name": jnp.array(True)}
        says(raised(jp.StructureMismatch, function, params, mask), "`name`", "int", "mask ()")

    def test_with_everything_wrong_at_once(self, function):
        mask = {
            "decoder": {"kernel": jnp.ones((2, 3, 4))},
            "encoder": {"bias": jnp.ones(5, bool), "kernel": WEIGHTS > 3},
        }
        text = raised(jp.StructureMismatch, function, PARAMS, mask)
        says(text, "2 problems", "`decoder/kernel`", "float32", "`encoder/bias`", "(6,)", "(5,)")


def test_a_mask_of_another_shape_under_jit():
    text = raised(jp.StructureMismatch, jax.jit(jp.apply_mask), WEIGHTS, jnp.ones((6, 5), bool))
    says(text, "(5, 6)", "(6, 5)")


def test_a_report_whose_mask_has_no_arrays():
    text = raised(jp.NoMatch, jp.report, PARAMS, masked(kernel=None))
    says(text, "no leaf is in scope", "where=")


def test_pack_of_no_mask():
    text = raised(jp.StructureMismatch, jp.pack, {"a": WEIGHTS > 3, "b": WEIGHTS, "c": "kept"})
    says(text, "`b`", "float32", "expected bool", "`c`", "str", "expected bool")


@pytest.mark.parametrize(
    ("packed", "like", "words"),
    [
        (
            {"a": jp.pack(WEIGHTS > 3)},
            {"a": WEIGHTS[:3]},
            "`a` expected uint8 (3, 1) got uint8 (5, 1) pack()",
        ),
        ({"a": jp.pack(WEIGHTS > 3)}, {"a": jnp.ones((5, 9))}, "`a` uint8 (5, 2) got uint8 (5, 1)"),
        ({"a": jp.pack(WEIGHTS > 3)}, {"a": jnp.ones((1, 5, 6))}, "`a` (1, 5, 1) got uint8 (5, 1)"),
        ({"a": WEIGHTS > 3}, {"a": WEIGHTS}, "`a` expected uint8 (5, 1) got bool (5, 6) pack()"),
        ({"a": WEIGHTS}, {"a": WEIGHTS}, "`a` expected uint8 (5, 1) got float32 (5, 6)"),
        ({"a": "packed"}, {"a": WEIGHTS}, "`a` expected uint8 (5, 1) got str"),
        ({"a": jp.pack(WEIGHTS > 3)}, {"a": None}, "`a` expected None got uint8 (5, 1)"),
        ({"a": jp.pack(WEIGHTS > 3)}, {"b": WEIGHTS}, "like missing `a` unexpected `b`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_packed_masks_that_do_not_fit(packed, like, words):
    says(raised(jp.StructureMismatch, jp.unpack, packed, like), *words.split())


def test_all_packed_masks_that_do_not_fit_at_once():
    packed = {"a": jp.pack(WEIGHTS > 3), "b": jp.pack(WEIGHTS > 3), "c": WEIGHTS}
    like = {"a": WEIGHTS, "b": WEIGHTS.T, "c": WEIGHTS}
    text = raised(jp.StructureMismatch, jp.unpack, packed, like)
    says(text, "2 problems", "`b`", "`c`")
    assert "`a`" not in text


# --- top_scores and allocate --------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True], ids=repr)
def test_k_that_is_none(k):
    says(
        raised(jp.PruningError, jp.top_scores, WEIGHTS, k),
        "k is a positive",
        "integer",
        f"got {k!r}",
    )


@pytest.mark.parametrize("method", ["larger", 3, None, ["erk"]], ids=repr)
def test_method_that_is_none(method):
    text = raised(jp.PruningError, jp.allocate, PARAMS, 0.5, method)
    says(text, "'uniform', 'erk'", "jp.erk(power=...)", "function", f"got {method!r}")


@pytest.mark.parametrize(
    "method",
    [
        lambda shape: NAN,
        lambda shape: 0.0,
        lambda shape: -1.0,
        lambda shape: INF,
        lambda shape: "1",
        jp.erk,
    ],
    ids=["NaN", "zero", "negative", "infinite", "text", "jp.erk without its call"],
)
def test_a_method_that_gives_no_density(method):
    text = raised(jp.PruningError, jp.allocate, PARAMS, 0.5, method)
    says(text, "density")


@pytest.mark.parametrize(
    ("sparsity", "overrides", "words"),
    [
        (0.1, {"encoder/kernel": 0.9}, "0.1 removes 5 27 of them between 0 and 23"),
        (0.9, {"encoder/kernel": None}, "0.9 removes 48 0 of them between 0 and 23"),
        (0.5, {"*": 0.25}, "0.5 removes 27 13 of them"),
    ],
)
def test_a_budget_that_cannot_be_met(sparsity, overrides, words):
    text = raised(jp.InvalidSparsity, jp.allocate, PARAMS, sparsity, overrides=overrides)
    says(text, "sparsity", *words.split(), "Change the sparsity or the overrides")


@pytest.mark.parametrize("value", [-0.1, 1.0, NAN, "0.5"], ids=repr)
def test_an_override_that_is_no_sparsity(value):
    text = raised(jp.InvalidSparsity, jp.allocate, PARAMS, 0.5, overrides={"encoder/*": value})
    says(text, "[0, 1)", f"got {value!r}")


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (jnp.arange(4), "int32"),
        (jnp.ones(4, bool), "bool"),
        (jax.random.split(jax.random.key(0), 4), "key<fry>"),
    ],
    ids=["integers", "bool", "keys"],
)
def test_a_mask_over_what_is_no_float(leaf, dtype):
    params = {"kernel": WEIGHTS, "other": leaf}
    mask = {"kernel": WEIGHTS > 3, "other": jnp.ones(4, bool)}
    for function in (jp.apply_mask, jp.report):
        text = raised(jp.StructureMismatch, function, params, mask)
        says(text, "`other`", dtype, "only floats are pruned", "None")


def test_a_bare_array_and_a_tree_do_not_fit():
    text = raised(jp.StructureMismatch, jp.apply_mask, WEIGHTS, {"a": WEIGHTS > 3})
    says(text, "missing the array", "unexpected `a`")


def test_tracebacks_name_errors_as_users_import_them():
    assert {kind.__module__ for kind in (jp.PruningError, *ALL_KINDS)} == {"jaxprune"}

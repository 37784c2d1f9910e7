"""The questions asked of a trace, its table and its plain data, and the words of its errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp


def of(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


X = of(2, 4)
W = of(4, 4)


def model(p, x):
    h = jnp.tanh(x @ p["dense"] + p["bias"])
    h = h @ p["tied"] + (h @ p["tied"].T) * p["table"][jnp.argmax(x, -1)]
    h = jnp.einsum("tx,xhk->thk", h, p["heads"])
    h = jnp.einsum("thk,hkd->td", h, p["out"])
    h = jnp.einsum("thk,chk->thc", h.reshape(2, 2, 2), p["latent"].reshape(5, 2, 2))
    return lax.linalg.triangular_solve(p["hidden"], h.reshape(5, 4), left_side=False)


PARAMS = {
    "bias": of(4),
    "dense": W,
    "heads": of(4, 2, 3),
    "hidden": W,
    "latent": of(5, 4),
    "out": of(2, 3, 4),
    "table": W,
    "tied": W,
    "unused": W,
}


@pytest.fixture(scope="module")
def uses():
    return jp.trace(model, PARAMS, X)


def test_axes(uses):
    assert uses.axes("dense", "input") == (0,)
    assert uses.axes("dense", "output") == (1,)
    assert uses.axes("dense", "batch") == ()
    assert uses.axes("heads", "output") == (1, 2)
    assert uses.axes("out", "input") == (0, 1)


def test_fans_and_multiply_adds(uses):
    assert (uses.fan_in("heads"), uses.fan_out("heads")) == (4, 6)
    assert (uses.fan_in("out"), uses.fan_out("out")) == (6, 4)
    assert uses.multiply_adds("heads") == 2 * 4 * 6
    assert uses.multiply_adds("tied") == 2 * (2 * 4 * 4)
    assert uses.multiply_adds("bias") == uses.multiply_adds("unused") == 0


def test_what_products_and_convolutions_read(uses):
    read = [leaf.path for leaf in uses.leaves if uses.is_product(leaf.path)]
    assert read == ["dense", "heads", "latent", "out", "tied"]


def refusal(uses, path, word="input"):
    with pytest.raises(jp.PruningError) as error:
        uses.axes(path, word)
    return str(error.value)


REMEDY = "Give an integer axis, or leave the leaf out with where=."


def test_a_leaf_that_no_product_reads_has_no_input(uses):
    lines = dict(zip(("bias", "table"), (row.source for row in uses.rows), strict=False))
    line = int(lines["bias"].rpartition(":")[2])
    assert refusal(uses, "bias") == (
        '`bias` has no "input" axes: no product or convolution reads it. Its use: '
        f"elementwise (add) at test_uses.py:{line}. {REMEDY}"
    )
    assert refusal(uses, "table", "output") == (
        '`table` has no "output" axes: no product or convolution reads it. Its use: '
        f"lookup at test_uses.py:{line + 1}. {REMEDY}"
    )
    assert refusal(uses, "unused") == (
        '`unused` has no "input" axes: no product or convolution reads it. Its use: '
        f"unused. {REMEDY}"
    )


def test_two_different_contractions_are_named(uses):
    first, second = uses.of("tied")
    assert {first.input_axes, second.input_axes} == {(0,), (1,)}
    line = first.source.rpartition(":")[2]
    words = refusal(uses, "tied")
    assert words == (
        "`tied` is read in different ways: its input axes are "
        f"{first.input_axes} in the product at test_uses.py:{line}; "
        f"{second.input_axes} in the product at test_uses.py:{line}. {REMEDY}"
    )
    assert "`tied` is read by different contractions: test_uses.py" in str(uses)


def test_an_opaque_leaf_is_refused_by_name(uses):
    words = refusal(uses, "hidden")
    assert words.startswith(
        '`hidden` has no "input" axes: it goes into triangular_solve (test_uses.'
    )
    assert words.endswith(f"which cannot be read. {REMEDY}")


def test_an_axis_that_is_only_in_part_an_input_is_refused(uses):
    assert refusal(uses, "latent").startswith(
        "axis 1 of `latent` is only in part an input axis: the model cuts it into several at "
    )
    assert uses.axes("latent", "output") == (0,)
    assert uses.axes("latent", "batch") == (1,)


def test_a_product_that_leaves_nothing_has_no_output():
    uses = jp.trace(lambda w, x: x @ w, of(4), X)
    assert uses.axes("", "input") == (0,)
    assert refusal(uses, "", "output").startswith(
        'the array has no "output" axes in the product at '
    )


def test_a_leaf_that_was_not_traced():
    uses = jp.trace(lambda p, x: x @ p["dense"], {"dense": W}, X)
    with pytest.raises(jp.NoMatch, match=r"no leaf `dens` was traced: did you mean `dense`\?"):
        uses.axes("dens", "input")
    with pytest.raises(jp.NoMatch, match="trace the params that hold it"):
        uses.is_product("xyz")


def test_params_without_arrays():
    with pytest.raises(jp.PruningError, match=r"expected params that hold arrays, got \{\}"):
        jp.trace(lambda p, x: x, {}, X)


def test_to_dict_is_plain(uses):
    rows = uses.to_dict()["rows"]
    assert json.loads(json.dumps(rows)) == rows
    (dense,) = [row for row in rows if row["path"] == "dense"]
    source = dense.pop("source")
    assert dense == {
        "path": "dense",
        "use": "product",
        "input_axes": [0],
        "output_axes": [1],
        "batch_axes": [],
        "multiply_adds": 2 * 4 * 4,
    }
    file, _, line = source.rpartition(":")
    assert file == __file__
    assert int(line) > 0


def test_the_table():
    def two(p, x):
        return jnp.tanh(x @ p["first"] + p["bias"]) @ p["second"].T

    params = {"bias": of(3), "first": of(4, 3), "second": of(1000, 3), "spare": of(2)}
    table = str(jp.trace(two, params, X))
    line = two.__code__.co_firstlineno + 1
    expected = """
leaf    shape      use                input  output  batch  multiply-adds  source
---------------------------------------------------------------------------------
bias    [3]        elementwise (add)                                       test_uses.py:LINE
first   [4, 3]     product                0       1                    24  test_uses.py:LINE
second  [1000, 3]  product                1       0                 6,000  test_uses.py:LINE
spare   [2]        unused
---------------------------------------------------------------------------------
total                                                               6,024
"""
    lines = [each.rstrip("-") for each in expected.strip().replace("LINE", str(line)).split("\n")]
    assert [each.rstrip("-") for each in table.split("\n")] == lines


def test_one_line_in_an_unrolled_loop_is_one_row():
    def f(w, x):
        for _ in range(5):
            x = jnp.tanh(x @ w)
        return x

    (row,) = jp.trace(f, W, X).rows
    assert row.multiply_adds == 5 * 2 * 4 * 4
    assert len(row.met) == 5


# --- what may be traced --------------------------------------------------------------------------


def test_descriptions_and_arrays_say_the_same():
    def f(p, x):
        return x @ p["w"]

    described = jp.trace(f, {"w": W}, X)
    concrete = jp.trace(f, {"w": np.ones((4, 4), np.float32)}, jnp.ones((2, 4)))
    assert described.to_dict() == concrete.to_dict()


def test_a_model_of_any_size_is_only_described():
    """A kernel of 10^12 weights exists nowhere."""
    uses = jp.trace(lambda w, x: x @ w, of(10**6, 10**6, dtype=jnp.bfloat16), of(1, 10**6))
    assert uses.multiply_adds("") == 10**12


def test_holes_functions_and_settings_stay_what_they_are():
    def f(p, x, *, scale=None):
        return p["act"](x @ p["w"]) if p["hole"] is None else None

    def g(p, x, train, name):
        return f(p, x) if not train and name == "eval" else None

    params = {"act": jnp.tanh, "hole": None, "w": W, "count": 3}
    uses = jp.trace(g, params, X, False, "eval")
    assert [(row.path, row.use) for row in uses.rows] == [("w", "product")]


def test_under_jit():
    @jax.jit
    def f(w, x):
        uses = jp.trace(lambda w, x: x @ w, w, x)
        return jnp.ones(uses.axes("", "input"))

    assert f(jnp.ones((4, 4)), jnp.ones((2, 4))).shape == (0,)

"""The small function under JAX's transformations, on devices, and in another process."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.shrinking.small import PARAMS, X, deps, model

CUT = jp.Cut({"embed": (0, 2, 3), "up": (1, 4, 5, 6)})
SMALL = deps().shrink(PARAMS, CUT)


@functools.cache
def masked():
    return jp.apply_mask(PARAMS, deps().mask(PARAMS, CUT))


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


def loss(f, params):
    return jnp.sum(jnp.square(f(params, X)))


def test_gradients_are_those_of_the_masked_model():
    whole = jax.jit(jax.grad(functools.partial(loss, model)))(masked())
    small = jax.jit(jax.grad(functools.partial(loss, deps().function(CUT))))(SMALL)
    jax.tree.map(close, deps().shrink(whole, CUT), small)


def test_constants_that_are_numpy_arrays_are_cut():
    table = np.linspace(1, 2, 8, dtype=np.float32)  # as rotary positions are
    params = {"up": jnp.ones((4, 8)), "down": jnp.ones((8, 3))}
    found = jp.dependencies(
        lambda p, x: (x @ p["up"] * table) @ p["down"], params, jnp.ones((2, 4))
    )
    cut = jp.Cut({"up": (0, 2, 5)})
    small = found.function(cut)(found.shrink(params, cut), jnp.ones((2, 4)))
    np.testing.assert_allclose(small, np.full((2, 3), 4 * table[[0, 2, 5]].sum()), rtol=1e-6)


def test_under_vmap_scan_and_donation():
    faster = deps().function(CUT)
    expected = faster(SMALL, X)
    twice = jax.vmap(faster, (None, 0))(SMALL, jnp.stack([X, 2 * X]))
    close(twice[0], expected)
    _, turned = jax.lax.scan(lambda c, x: (c, faster(SMALL, x)), 0, jnp.stack([X, X]))
    close(turned[1], expected)
    given = jax.tree.map(jnp.copy, SMALL)
    out = jax.jit(lambda p, x: (p, faster(p, x)), donate_argnums=0)(given, X)[1]
    close(out, expected)
    assert given["up"]["kernel"].is_deleted()


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_on_several_devices(kind):
    mesh = jax.make_mesh((5,), ("data",), axis_types=(kind,))
    x = jax.device_put(X, jax.NamedSharding(mesh, jax.P("data")))
    small = jax.device_put(SMALL, jax.NamedSharding(mesh, jax.P()))
    out = jax.jit(deps().function(CUT))(small, x)
    close(out, model(masked(), X))
    assert not out.is_fully_replicated


def with_derivatives(params, x):
    h = jax.nn.relu(x @ params["up"])
    h = jax.checkpoint(jax.nn.softplus)(scaled(h, params["scale"]))
    return times(jax.nn.silu(h), params["down"])


@jax.custom_vjp
def scaled(x, scale):
    return x * scale


# Seven times the true derivative: what is kept can be told from what is not.
scaled.defvjp(
    lambda x, scale: (x * scale, (x, scale)),
    lambda kept, ct: (7 * ct * kept[1], 7 * jnp.sum(ct * kept[0], 0)),
)


@jax.custom_vjp
def times(x, w):
    return x @ w


# Residuals of another layout than the operands', and a derivative that is not the true one.
times.defvjp(
    lambda x, w: (x @ w, (x.T, jnp.sign(w).T)),
    lambda kept, ct: (ct @ kept[1], 3 * kept[0] @ ct),
)


def test_derivatives_of_a_calls_own_are_kept():
    random = np.random.default_rng(0)
    shapes = {"down": (4, 2), "scale": (4,), "up": (3, 4)}
    params = {k: jax.device_put(np.float32(random.normal(size=s))) for k, s in shapes.items()}
    params["up"] = params["up"].at[:, 0].set(0)  # where relu's derivative is a matter of choice
    found = jp.dependencies(with_derivatives, params, X)
    cut = jp.Cut({"up": (0, 2, 3)})
    pruned = jp.apply_mask(params, found.mask(params, cut))
    whole = jax.jit(jax.grad(functools.partial(loss, with_derivatives)))(pruned)
    small = found.shrink(params, cut)
    jax.tree.map(
        close,
        found.shrink(whole, cut),
        jax.jit(jax.grad(functools.partial(loss, found.function(cut))))(small),
    )


def test_other_params_are_refused():
    with pytest.raises(jp.StructureMismatch, match=r"`up/bias` has shape \(8,\), and \(4,\) is"):
        deps().function(CUT)(PARAMS, X)
    with pytest.raises(jp.StructureMismatch, match="the params have 1 arrays, and 5 are left by"):
        deps().function(CUT)({"kernel": jnp.ones(3)}, X)


def test_other_units_for_other_inputs_are_refused():
    def either(params, x):
        if len(x) > 1:
            return jax.nn.relu(x @ params["up"]) @ params["down"]
        return jnp.cumsum(x @ params["up"], 1) @ params["down"]

    params = {"up": jnp.ones((3, 4)), "down": jnp.ones((4, 2))}
    found = jp.dependencies(either, params, X)
    cut = jp.Cut({"up": (0, 1)})
    with pytest.raises(jp.PruningError, match="other units belong together"):
        found.function(cut)(found.shrink(params, cut), X[:1])


def test_exported_and_loaded_in_a_process_without_jaxprune(tmp_path):
    pytest.importorskip("flatbuffers")
    from jax import export

    faster = deps().function(CUT)
    batch = jax.ShapeDtypeStruct(export.symbolic_shape("n, 3"), X.dtype)
    with pytest.raises(jp.PruningError, match=r"symbolic shape .* under vmap"):
        export.export(jax.jit(faster))(SMALL, batch)
    singly = jax.jit(lambda params, x: jax.vmap(lambda x: faster(params, x[None])[0])(x))
    (tmp_path / "small").write_bytes(export.export(singly)(SMALL, batch).serialize())
    leaves = {f"{a}/{b}": np.asarray(x) for a, part in SMALL.items() for b, x in part.items()}
    np.savez(tmp_path / "small.npz", x=X, **leaves)
    code = """
import sys
import numpy as np
from jax import export
found = dict(np.load("small.npz"))
x, params = found.pop("x"), {}
for path, leaf in found.items():
    part, name = path.split("/")
    params.setdefault(part, {})[name] = leaf
call = export.deserialize(open("small", "rb").read()).call
np.save("out.npy", call(params, x))
assert "jaxprune" not in sys.modules
"""
    environment = dict(os.environ, XLA_FLAGS="")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)
    close(np.load(tmp_path / "out.npy"), faster(SMALL, X))

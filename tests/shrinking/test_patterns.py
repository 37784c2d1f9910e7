"""Ways of writing a layer that couple axes by slices, patches and indices: cut, and exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.shrinking.deep import draw
from tests.tracing.models import normal

ROUNDING = 1e-5
SENDERS, RECEIVERS = np.array([0, 1, 2, 3, 1, 2]), np.array([1, 2, 3, 0, 0, 0])


def patches(p, x):
    """A convolution by slices that are concatenated, and one matrix."""
    x = jnp.concatenate([jnp.tanh(x @ p["one"]), jnp.sin(x @ p["two"])], -1)
    taps = [x[:, i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    x = jnp.concatenate(taps, -1) @ p["kernel"].reshape(-1, p["kernel"].shape[-1])
    return jax.nn.sigmoid(x).mean((1, 2)) @ p["head"]


def messages(p, x):
    """A graph network: messages along edges, added up, and the largest of them, by node."""
    x = jnp.tanh(x @ p["embed"])
    sent = jax.nn.gelu(jnp.concatenate([x[SENDERS], x[RECEIVERS]], -1) @ p["message"])
    total = jax.ops.segment_sum(sent, RECEIVERS, len(x))
    largest = jax.ops.segment_max(sent, RECEIVERS, len(x))
    x = x + jnp.concatenate([x, total, largest], -1) @ p["update"]
    return x.mean(0) @ p["head"]


def routed(p, x):
    """Experts that run on sorted rows and are added back by index."""
    x = x @ p["embed"]
    gates, chosen = jax.lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
    order = jnp.argsort(chosen.reshape(-1))
    sizes = jnp.bincount(chosen.reshape(-1), length=3)
    h = jnp.tanh(jax.lax.ragged_dot(x[order // 2], p["up"], sizes))
    out = jax.lax.ragged_dot(h, p["down"], sizes) * gates.reshape(-1)[order][:, None]
    return x.at[order // 2].add(out) @ p["head"]


def pooled(p, x):
    """Tokens that are replaced and scaled at their positions, and one that is taken."""
    x = x @ p["embed"]
    x = x.at[:, 0].set(p["token"]).at[:, 1].mul(p["gain"])
    last = jnp.argmax(jnp.sum(x, -1), -1)
    return jnp.take_along_axis(x, last[:, None, None], 1)[:, 0] @ p["head"]


CASES = {
    "patches": (
        patches,
        draw(one=(3, 4), two=(3, 6), kernel=(3, 3, 10, 5), head=(5, 2)),
        normal(2, 5, 5, 3),
        ["one", "two", "kernel"],
    ),
    "messages": (
        messages,
        draw(embed=(3, 6), message=(12, 8), update=(22, 6), head=(6, 2)),
        normal(4, 3),
        ["embed", "message"],
    ),
    "routed": (
        routed,
        draw(embed=(4, 6), router=(6, 3), up=(3, 6, 7), down=(3, 7, 6), head=(6, 2)),
        normal(5, 4),
        ["embed", "up"],
    ),
    "pooled": (
        pooled,
        draw(embed=(3, 6), token=(6,), gain=(6,), head=(6, 2)),
        normal(2, 4, 3),
        ["embed"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_half_of_every_group(name):
    f, params, x, names = CASES[name]
    deps = jp.dependencies(f, params, x)
    assert [group.name for group in deps.groups if not group.refused] == names
    cut = deps.choose(params, 0.5)
    assert set(cut.kept) == set(names)
    assert deps.verify(params, cut, x) < ROUNDING


def test_units_that_are_put_at_indices_are_kept():
    params = draw(up=(3, 6), rows=(6, 4), head=(8, 2))

    def columns(p, x):
        return jnp.ones((len(x), 8)).at[:, jnp.arange(6)].set(x @ p["up"]) @ p["head"]

    def rows(p, x):
        return (x @ p["up"]) @ jnp.zeros((6, 4)).at[jnp.arange(6)].add(p["rows"])

    for f, name in ((columns, "up[1]"), (rows, "rows[0]")):
        found = {g.name: g.refused for g in jp.dependencies(f, params, normal(2, 3)).groups}
        assert found[name].startswith("it is indexed by data at ")

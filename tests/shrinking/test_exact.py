"""A small model is the masked model: sixteen architectures, every leaf without zeros."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune._tree import arrays_in, is_array, leaves, rebuild
from tests.shrinking.models import MODELS, filled
from tests.tracing.models import initial, normal
from tests.tracing.test_models import quickly

ROUNDING = 1e-5


@functools.cache
def built(name):
    model = MODELS[name]()
    return model, filled(model.params), jp.dependencies(model.f, model.params, *model.inputs)


def on_arrays(f, params, inputs):
    """A compiled function of the arrays of parameters alone, and those arrays."""
    everything = leaves(params)

    def flat(arrays):
        rest = iter(arrays)
        values = [next(rest) if is_array(leaf.value) else leaf.value for leaf in everything]
        out = f(rebuild(params, values), *inputs)
        return [leaf.value for leaf in leaves(out) if is_array(leaf.value)]

    return quickly(flat), [leaf.value for leaf in everything if is_array(leaf.value)]


def gap(one, other):
    """The largest difference, relative to the largest entry of each result."""
    pairs = [[np.asarray(x, np.float64) for x in pair] for pair in zip(one, other, strict=True)]
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in pairs)


def masked_results(model, params, deps, cut, dense=None):
    """What is left of the results with masked parameters; `dense` is the compiled whole model."""
    dense = dense or on_arrays(model.f, params, model.inputs)[0]
    results = dense(arrays_in(jp.apply_mask(params, deps.mask(params, cut))))
    left = deps._left(cut)
    return [left.take(x, axes) for x, axes in zip(results, deps.model.body.outputs, strict=True)]


@pytest.mark.parametrize("name", MODELS)
def test_without_half_of_every_group(name):
    model, params, deps = built(name)
    cut = deps.choose(params, 0.5)
    assert set(cut.kept) == {g.name for g in deps.groups if not g.refused and not g.inexact}
    expected = masked_results(model, params, deps, cut)
    small = deps.shrink(params, cut)
    run, arrays = on_arrays(deps.function(cut), small, model.inputs)
    assert gap(expected, run(arrays)) < ROUNDING
    assert wrong_slices(deps, params, cut, lambda arrays: gap(expected, run(arrays)), arrays) == []


def wrong_slices(deps, params, cut, error, arrays):
    """The slices of which one wrong unit makes no difference: the proof would be blind there."""
    left = deps._left(cut)
    whole = [leaf.value for leaf in leaves(params) if is_array(leaf.value)]
    unnoticed = []
    for k, (leaf, axes) in enumerate(zip(deps.model.leaves, deps.model.axes, strict=True)):
        for axis, block in enumerate(axes):
            kept = left.of(block)
            if kept.all() or arrays[k].shape != left.shape(axes):
                continue
            wrong = np.array(np.flatnonzero(kept))
            wrong[0] = np.flatnonzero(~kept)[0]
            slices = [np.flatnonzero(left.of(other)) for other in axes]
            slices[axis] = wrong
            changed = [*arrays[:k], np.asarray(whole[k])[np.ix_(*slices)], *arrays[k + 1 :]]
            # All keys of one softmax move alike with the bias of keys: it has no effect at all.
            if not error(changed) > ROUNDING and not leaf.path.endswith("key/bias"):
                unnoticed.append((leaf.path, axis))
    return unnoticed


@pytest.mark.parametrize("name", ["decoder", "state_space_model"])
def test_without_a_part_of_one_group_alone(name):
    model, params, deps = built(name)
    dense, _ = on_arrays(model.f, params, model.inputs)
    for group in deps.groups:
        if group.refused or "layers/1" in group.name or group.name == "embedding":
            continue  # the layers are alike
        cut = jp.Cut({group.name: range(1, group.units)})
        expected = masked_results(model, params, deps, cut, dense)
        run, arrays = on_arrays(deps.function(cut), deps.shrink(params, cut), model.inputs)
        assert gap(expected, run(arrays)) < ROUNDING, group.name


def test_what_is_not_exact_is_named_beforehand_and_left_alone():
    model, params, deps = built("attention")
    (stream,) = [group for group in deps.groups if group.inexact]
    assert stream.name == "embed"
    assert stream.inexact.startswith("reduce_sum sums what is not zero where it is cut at ")
    assert "embed" not in deps.choose(params, 0.25).kept
    cut = deps.choose(params, {"embed": 0.25})
    with pytest.raises(jp.PruningError, match=r"cut alone, these groups differ: embed \("):
        deps.verify(params, cut, *model.inputs)


@pytest.mark.parametrize(
    ("move", "name"),
    [
        (lambda h: h / jnp.linalg.norm(h, axis=0), "div"),
        (lambda h: h * jax.lax.rsqrt(jnp.sum(h * h, 0)), "rsqrt"),
        (lambda h: jnp.log(jnp.abs(h)), "log"),
        (lambda h: jnp.abs(h) ** -0.5, "pow"),
        (lambda h: h**-2, "integer_pow"),
    ],
)
def test_where_zeros_make_the_masked_model_infinite(move, name):
    def f(params, x):
        return jnp.tanh(x @ move(params["up"])) @ params["down"]

    params = {"up": normal(3, 4), "down": normal(4, 2)}
    (group,) = [g for g in jp.dependencies(f, params, normal(5, 3)).groups if not g.refused]
    assert group.inexact.startswith(f"{name} is not finite where what is cut is zero at ")


def test_where_no_zero_is_divided_by_nothing_is_infinite():
    def f(params, x):
        h = x @ params["up"]
        h = jnp.where(h == 0, 0, 1 / jnp.where(h == 0, 1, h))
        h = jax.lax.scan(lambda c, x: (jnp.tanh(c + x) / (c + 1), None), jnp.zeros(4), h)[0]
        return (jnp.abs(h) ** 1.5) @ params["down"]

    params = {"up": normal(3, 4), "down": normal(4, 2)}
    deps = jp.dependencies(f, params, normal(5, 3))
    assert [g.inexact for g in deps.groups if not g.refused] == [""]
    assert deps.verify(params, deps.choose(params, 0.5), normal(5, 3)) < ROUNDING


class Grouped(nn.Module):
    """Two branches, one after the other, under one norm of groups."""

    sizes: tuple[int, int]
    groups: int
    fast: bool = True

    @nn.compact
    def __call__(self, x):
        both = [nn.Dense(size, name=name)(x) for size, name in zip(self.sizes, "ab", strict=True)]
        norm = nn.GroupNorm(self.groups, use_fast_variance=self.fast, name="norm")
        return nn.Dense(3, name="head")(nn.relu(norm(jnp.concatenate(both, -1))))


@pytest.mark.parametrize(
    ("sizes", "groups", "fast", "names"),
    [
        ((8, 4), 3, True, ["params/a", "params/a[1]"]),  # whole groups, and channels of all
        ((8, 4), 3, False, ["params/a"]),
        ((6, 4), 2, True, []),  # the second group has channels of both
    ],
)
def test_a_norm_of_groups_over_two_branches(sizes, groups, fast, names):
    model, x = Grouped(sizes, groups, fast), normal(4, 5)
    params = filled(initial(model, x))
    deps = jp.dependencies(model.apply, params, x)
    found = {group.name: group for group in deps.groups}
    assert [n for n, g in found.items() if not (g.refused or g.inexact)] == names
    if not fast:
        assert found["params/a[1]"].inexact.startswith("reduce_sum sums what is not zero")
    if not names:
        words = "a reshape does not divide it into whole parts at "
        assert found["params/a[1]"].refused.startswith(words)
        assert found["params/b[1]"].refused.startswith(words)
        return
    cut = jp.Cut({name: range(1, found[name].units) for name in names})
    assert deps.verify(params, cut, x) < ROUNDING


def test_the_result_keeps_its_type_and_a_state_is_written_back_small():
    model, params, deps = built("trained_norm")
    cut = deps.choose(params, 0.5)
    out, state = deps.function(cut)(deps.shrink(params, cut), *model.inputs)
    assert out.shape == (4, 3)
    assert jax.tree.map(np.shape, state) == {"batch_stats": {"norm": {"mean": (3,), "var": (3,)}}}


def test_a_batch_of_another_size_is_traced_again_and_no_other():
    model, params, deps = built("residual_network")
    cut = deps.choose(params, 0.5)
    faster, small = deps.function(cut), deps.shrink(params, cut)
    (x,) = model.inputs
    double = np.concatenate([x, x])
    both = jax.jit(faster)(small, double)
    np.testing.assert_allclose(both[:1], both[1:], rtol=1e-5)
    assert both.shape == (2, 7)
    jax.eval_shape(faster, small, double)
    assert len(faster.models.others) == 1

"""Stats: they add up, they are saved and loaded, they are a tree."""

import jax
import numpy as np
import pytest

import jaxprune as jp


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def f(p, x):
    return x @ p["stack"][0] + x @ p["stack"][1], x @ p["w"]


PARAMS = {"stack": normal(2, 3, 3), "w": normal(3, 4)}
ONE, TWO = [(normal(5, 3),)], [(normal(2, 3, seed=1),)]


@pytest.fixture(scope="module")
def grams():
    return [jp.calibrate(f, PARAMS, batches, gather="gram") for batches in (ONE, TWO, ONE + TWO)]


def test_stats_of_two_runs_add_up(grams):
    one, two, whole = grams
    total = one + two
    for mine, theirs in zip(jax.tree.leaves(total), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    assert jax.tree.structure(total) == jax.tree.structure(whole)
    np.testing.assert_array_equal(total.counts["w"], [7])
    with pytest.raises(jp.StructureMismatch, match="stats of gram of 2 leaves and of squares of 1"):
        _ = one + jp.calibrate(f, PARAMS, ONE, where="w")


def test_a_file_gives_back_what_was_saved(grams, tmp_path):
    stats = grams[0]
    file = tmp_path / "of a model"
    stats.save(file)
    again = jp.Stats.load(file)
    assert jax.tree.structure(again) == jax.tree.structure(stats)
    for mine, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(stats), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert again.gather == "gram"


FILES = {
    "other arrays": lambda to, _: np.savez(to, x=np.ones(3)),
    "other leaves": lambda to, _: np.savez(to, leaves=np.array("[3]")),
    "one array": lambda to, _: np.save(to, np.ones(3)),
    "text": lambda to, _: to.write(b"stats"),
    "nothing": lambda to, _: None,
    "half of it": lambda to, whole: to.write(whole[: len(whole) // 2]),
    "a byte of another value": lambda to, whole: to.write(whole[:200] + b"?" + whole[201:]),
}


@pytest.mark.parametrize("kind", FILES)
def test_another_file_is_refused(grams, tmp_path, kind):
    file = tmp_path / "stats.npz"
    grams[0].save(file)
    whole = file.read_bytes()
    with open(file, "wb") as to:
        FILES[kind](to, whole)
    with pytest.raises(jp.PruningError, match=r"stats.npz is not what Stats.save has written"):
        jp.Stats.load(file)


def test_a_shared_gram_is_stored_once(grams):
    assert len(grams[0].grams) == 1
    assert grams[0].of("stack").grams == ("stack:0", "stack:0")


def test_the_table(grams):
    assert str(grams[0]).splitlines()[2:] == [
        "stack  2x3x3         2       3         10  gram",
        "w        3x4         1       3          5  gram",
    ]
    with pytest.raises(jp.NoMatch, match="no stats of `v`: they are of `stack`, `w`"):
        grams[0].of("v")
    squares = jp.calibrate(f, PARAMS, ONE)
    with pytest.raises(jp.PruningError, match="no Gram of `w` was gathered"):
        squares.gram("w")

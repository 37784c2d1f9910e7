"""Pruned files: what the library makes of all tensors at once, to the bit."""

import flax.serialization
import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.io import _overlap
from tests.io.files import (
    WRITERS,
    by_path,
    contents,
    model,
    nested,
    normal,
    pruned_file,
    pruned_whole,
    same,
    tensors_for,
    write_safetensors,
)


def test_every_format_is_pruned_as_the_library_does(checkpoint, tmp_path):
    path, tensors = checkpoint
    target = tmp_path / f"out{path.suffix}"
    done = pruned_file(path, target, jp.Unstructured(0.6, per="global"))
    expected, mask = pruned_whole(tensors, jp.Unstructured(0.6, per="global"))
    same(by_path(contents(target)), expected)
    kept = [np.asarray(m) for m in mask.values() if m is not None]
    assert done.removed == sum(m.size - m.sum() for m in kept)
    assert done.total == sum(m.size for m in kept)
    floats = [a for a in expected.values() if str(a.dtype) in ("float64", "float32", "float16")]
    floats += [a for a in expected.values() if str(a.dtype) == "bfloat16"]
    assert done.parameters == sum(a.size for a in floats)
    assert done.zeros == sum(a.size - np.count_nonzero(a) for a in floats)


def test_masks_are_written_beside(tmp_path):
    tensors = model()
    write_safetensors(tmp_path / "in.safetensors", tensors)
    spec = {"head/*": None, "*": jp.Unstructured(0.5, per="global")}
    out, masks = tmp_path / "out.safetensors", tmp_path / "masks.npz"
    pruned_file(tmp_path / "in.safetensors", out, spec, mask_target=masks)
    _, expected = pruned_whole(tensors, spec)
    with np.load(masks) as found:
        same(by_path(dict(found)), {k: np.asarray(m) for k, m in expected.items() if m is not None})


DTYPES = ("float32", "bfloat16", "float16", "float64")


SPECS = {
    "leaf": jp.Unstructured(0.7),
    "global": jp.Unstructured(0.7, per="global"),
    "a floor": jp.Unstructured(0.9, per="global", min_nonzero=3),
    "axis": jp.Unstructured(0.7, per=0),
    "2:4": jp.NM(2, 4, axis=1),
    "rows": jp.Rows(0.5),
    "block": jp.Block(0.5, (2, 4)),
}


METRICS = {
    "l1": jp.L1(),
    "l2": jp.L2(),
    "random": jp.Random(jax.random.key(3)),
    "lcg": jp.LCG(3),
}


@pytest.mark.parametrize(
    ("spec", "metric"),
    [(spec, "l1") for spec in SPECS]
    + [(spec, metric) for spec in ("leaf", "global", "2:4") for metric in ("l2", "random", "lcg")],
)
def test_every_spec_and_metric_is_the_library_s(spec, metric, tmp_path):
    tensors = {f"{i}.weight": normal(4, 8, dtype=d) for i, d in enumerate(DTYPES)}
    write_safetensors(tmp_path / "in.safetensors", tensors)
    choices = {"metric": METRICS[metric]}
    pruned_file(tmp_path / "in.safetensors", tmp_path / "o.safetensors", SPECS[spec], **choices)
    same(
        by_path(contents(tmp_path / "o.safetensors")),
        pruned_whole(tensors, SPECS[spec], **choices)[0],
    )


def test_ties_of_a_global_budget_go_in_the_library_s_order(tmp_path):
    """Not in that of the file, whichever format it has."""
    names = ["b.weight", "a-b.weight", "a.weight", "a.b.weight"]
    tensors = {name: np.ones((2, 5), np.float32) for name in names}
    spec = jp.Unstructured(0.37, per="global")
    np.savez(tmp_path / "in.npz", **tensors)
    pruned_file(tmp_path / "in.npz", tmp_path / "out.npz", spec)
    same(by_path(contents(tmp_path / "out.npz")), pruned_whole(tensors, spec)[0])
    (tmp_path / "in.msgpack").write_bytes(flax.serialization.msgpack_serialize(nested(tensors)))
    pruned_file(tmp_path / "in.msgpack", tmp_path / "out.msgpack", spec)
    found = flax.serialization.msgpack_restore((tmp_path / "out.msgpack").read_bytes())
    expected = jp.prune(nested(tensors), spec)[0]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_numbers_and_names_may_be_keys_of_one_map(tmp_path):
    tree = {"a": np.ones((2, 5), np.float32), "b": np.ones((2, 5), np.float32)}
    raw = flax.serialization.msgpack_serialize(tree)
    (tmp_path / "in.msgpack").write_bytes(raw.replace(b"\xa1b", b"\x01"))
    spec = jp.Unstructured(0.5, per="global")
    pruned_file(tmp_path / "in.msgpack", tmp_path / "out.msgpack", spec)
    found = contents(tmp_path / "out.msgpack")
    assert (found["1"].sum(), found["a"].sum()) == (1, 9)


@pytest.mark.parametrize("kind", WRITERS)
def test_tensors_that_are_large_are_pruned_as_small_ones_are(kind, tmp_path, monkeypatch):
    """Large ones are read and written by other threads."""
    monkeypatch.setattr(_overlap, "_LEAST", 1)
    tensors = tensors_for(kind)
    WRITERS[kind](tmp_path / f"in{kind}", tensors)
    masks = tmp_path / "masks.npz"
    pruned_file(tmp_path / f"in{kind}", tmp_path / f"out{kind}", 0.6, mask_target=masks)
    expected, mask = pruned_whole(tensors, 0.6)
    same(by_path(contents(tmp_path / f"out{kind}")), expected)
    same(by_path(contents(masks)), {k: np.asarray(m) for k, m in mask.items() if m is not None})

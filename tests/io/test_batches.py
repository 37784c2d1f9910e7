"""Many small tensors: worked on together, and each as if it were alone."""

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import io
from jaxprune.io import _batches
from jaxprune.io._batches import Memory, batches
from jaxprune.io._checkpoint import Tensor, numpy_dtype
from tests import oracle
from tests.io.files import WRITERS, by_path, contents, pruned_file, pruned_whole, same, x64


def many():
    """Tensors of few shapes in changing order: ties, NaN, zeros, and bytes that are not aligned."""
    kinds, found = list(oracle.KINDS), {}
    for i in range(60):
        dtype = numpy_dtype(("float32", "bfloat16", "float32", "float16")[i % 4])
        shape = [(4, 8), (8, 4), (4, 8), (2, 4, 8)][i * 7 % 4]
        found[f"layers.{i}.weight"] = oracle.hard_scores(kinds[i % len(kinds)], i, shape, dtype)
        if i % 5 == 0:
            found[f"layers.{i}.steps"] = np.arange(3, dtype=np.int8)
            found[f"layers.{i}.bias"] = np.ones(8, np.float32)
    return found


SPECS = [
    0.5,
    jp.Unstructured(0.9, min_nonzero=5),
    jp.Unstructured(0.5, per=0),
    jp.Unstructured(0.5, per="global"),
    jp.Unstructured(0.8, per="global", min_nonzero=5),
    jp.NM(2, 4),
    jp.NM(1, 4, axis=-1),
    jp.NM(1, 2, axis=0),
    jp.NM(3, 4, axis=None),
    {"layers/1*": jp.Channels(0.5, axis=0), "*": 0.25},
]


@pytest.mark.parametrize("together", [1, 500, 1 << 21])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_each_is_pruned_as_it_is_in_a_tree(spec, together, tmp_path, monkeypatch):
    monkeypatch.setattr(_batches, "_TOGETHER", together)
    tensors = many()
    WRITERS[".safetensors"](tmp_path / "in.safetensors", tensors)
    masks = tmp_path / "masks.safetensors"
    done = pruned_file(
        tmp_path / "in.safetensors", tmp_path / "out.safetensors", spec, mask_target=masks
    )
    expected, mask = pruned_whole(tensors, spec)
    found = by_path(contents(tmp_path / "out.safetensors"))
    same(found, expected)
    kept = {path: np.asarray(of) for path, of in mask.items() if of is not None}
    same(by_path(contents(masks)), kept)
    assert (done.tensors, done.total) == (len(kept), sum(of.size for of in kept.values()))
    assert done.removed == sum(np.count_nonzero(~of) for of in kept.values())
    with x64():
        assert done.zeros == done.parameters - jp.report(expected).all.nonzero


@pytest.mark.parametrize("kind", [".msgpack", "_sharded", "_orbax"])
def test_they_may_lie_apart(kind, tmp_path):
    tensors = many()
    WRITERS[kind](tmp_path / f"in{kind}", tensors)
    pruned_file(tmp_path / f"in{kind}", tmp_path / f"out{kind}", jp.NM(2, 4))
    same(by_path(contents(tmp_path / f"out{kind}")), pruned_whole(tensors, jp.NM(2, 4))[0])


@pytest.mark.parametrize("metric", [jp.L2(), jp.Random(jax.random.key(3)), jp.LCG(3)], ids=repr)
def test_metrics_see_each_alone(metric, tmp_path):
    tensors = many()
    WRITERS[".safetensors"](tmp_path / "in.safetensors", tensors)
    pruned_file(tmp_path / "in.safetensors", tmp_path / "out.safetensors", 0.5, metric=metric)
    expected, _ = pruned_whole(tensors, 0.5, metric=metric)
    same(by_path(contents(tmp_path / "out.safetensors")), expected)


@pytest.mark.parametrize("spec", [jp.NM(2, 4), jp.Channels(0.5, axis=0)], ids=str)
def test_the_report_of_each_is_the_library_s(spec, tmp_path):
    tensors = {name: array for name, array in many().items() if "bias" not in name}
    WRITERS[".safetensors"](tmp_path / "in.safetensors", tensors)
    out = tmp_path / "out.safetensors"
    done = pruned_file(tmp_path / "in.safetensors", out, spec, with_report=True)
    expected, mask = pruned_whole(tensors, spec)
    with io.open_checkpoint(out) as source:
        assert str(io.report_checkpoint(source)) == str(jp.report(expected))
    rows = {row.path: row for row in done.rows}
    for row in jp.report(expected, mask).rows:
        assert (rows[row.path].pattern, rows[row.path].count) == (row.pattern, row.count)


def test_batches_are_small_or_hold_one_tensor(monkeypatch):
    monkeypatch.setattr(_batches, "_TOGETHER", 10)
    sizes = [4, 6, 1, 20, 3, 0, 7, 1]
    tensors = [Tensor((str(i),), (size,), "int8", size) for i, size in enumerate(sizes)]
    found = batches(tensors)
    assert [tensor for batch in found for tensor in batch.tensors] == tensors
    assert [batch.nbytes for batch in found] == [10, 1, 20, 10, 1]
    assert batches([]) == []


def test_memory_is_used_again():
    memory = Memory()
    first = memory.take(100)
    other = memory.take(50)
    assert first is not other
    memory.give(first)
    memory.give(other)
    assert memory.take(70) is first
    assert memory.take(51) is not other  # too small, and given up
    memory.give(first)
    assert memory.take(100) is first

"""Checkpoints as files: what is pruned is what the library prunes, and all else stays as it was."""

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxprune._bits import keys as library_keys
from jaxprune._masks import make_mask
from jaxprune.io._lowest import Ordered, find_cut, keys, magnitudes, survivors

import jaxprune as jp
from jaxprune import io
from jaxprune.io._atomic import replacing
from jaxprune.io._checkpoint import numpy_dtype

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)


def normal(*shape, dtype="float32"):
    return RNG.normal(size=shape).astype(numpy_dtype(dtype))


def model():
    """Names as PyTorch writes them, in an order that is not the library's, and many dtypes."""
    return {
        "layers.10.mlp.weight": normal(8, 16),
        "layers.2.mlp.weight": normal(8, 16, dtype="bfloat16"),
        "layers.2.attn.weight": normal(12, 8, dtype="float16"),
        "layers.2.norm.weight": normal(8),
        "embed_tokens.weight": normal(6, 8),
        "head.weight": normal(4, 8, dtype="float64"),
        "steps": np.arange(5),
        "scale8": normal(4, 4).astype(ml_dtypes.float8_e4m3fn),
        "empty": np.zeros((0, 3), np.float32),
        "flag": np.array([True, False]),
    }


def plain(tensors):
    """Without what npz cannot hold."""
    return {name: array for name, array in tensors.items() if array.dtype.kind in "biuf"}


def nested(tensors):
    root = {}
    for name, array in tensors.items():
        *above, last = name.split(".")
        node = root
        for key in above:
            node = node.setdefault(key, {})
        node[last] = array
    return root


def write_safetensors(path, tensors):
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt", "of": "é"})


def write_sharded(path, tensors):
    path.mkdir()
    names = list(tensors)
    parts = names[::2], names[1::2]
    where = {}
    for i, part in enumerate(parts):
        shard = f"model-0000{i + 1}-of-00002.safetensors"
        write_safetensors(path / shard, {name: tensors[name] for name in part})
        where |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def write_orbax(path, tensors):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, nested(tensors))


WRITERS = {
    ".safetensors": write_safetensors,
    ".npz": lambda path, tensors: np.savez(path, **tensors),
    ".msgpack": lambda path, tensors: path.write_bytes(
        flax.serialization.msgpack_serialize(nested(tensors))
    ),
    "_sharded": write_sharded,
    "_orbax": write_orbax,
}


def tensors_for(kind):
    tensors = plain(model()) if kind == ".npz" else model()
    return {n: a for n, a in tensors.items() if a.size} if kind == "_orbax" else tensors


def contents(path):
    with io.open_checkpoint(path) as checkpoint:
        return {tensor.name: checkpoint.read(tensor) for tensor in checkpoint.tensors}


def by_path(tensors):
    return {name.replace(".", "/"): array for name, array in tensors.items()}


def same(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name


def pruned_whole(tensors, spec, **choices):
    """What the library makes of all tensors at once."""
    with jax.enable_x64(True):
        out, mask = jp.prune(by_path(tensors), spec, **choices)
    return {k: np.asarray(v) for k, v in out.items()}, mask


def pruned_file(source, target, spec, **choices):
    with io.open_checkpoint(source) as checkpoint:
        return io.prune_checkpoint(checkpoint, target, spec, **choices)


@pytest.fixture(params=list(WRITERS))
def checkpoint(request, tmp_path):
    tensors = tensors_for(request.param)
    path = tmp_path / f"in{request.param}"
    WRITERS[request.param](path, tensors)
    return path, tensors


# --- reading and writing ------------------------------------------------------------------------


def test_every_format_is_read(checkpoint):
    path, tensors = checkpoint
    same(by_path(contents(path)), by_path(tensors))


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


@pytest.mark.parametrize(
    ("kind", "target"),
    [(kind, f"out{suffix}") for kind in WRITERS for suffix in (".safetensors", ".msgpack")]
    + [(kind, "out_orbax") for kind in (".safetensors", ".npz", ".msgpack")],
)
def test_formats_are_turned_into_others(kind, target, tmp_path):
    path = tmp_path / f"in{kind}"
    # Orbax refuses arrays that hold nothing, and so what is written for it has none.
    tensors = {name: a for name, a in tensors_for(kind).items() if a.size or "orbax" not in target}
    WRITERS[kind](path, tensors)
    pruned_file(path, tmp_path / target, 0.5)
    same(by_path(contents(tmp_path / target)), pruned_whole(tensors, 0.5)[0])


def test_what_is_written_is_what_the_owners_of_the_formats_read(tmp_path):
    known = {name: array for name, array in model().items() if name != "scale8"}
    write_safetensors(tmp_path / "in.safetensors", known)
    tensors = contents(tmp_path / "in.safetensors")
    for name in ("out.safetensors", "out.msgpack"):
        pruned_file(tmp_path / "in.safetensors", tmp_path / name, 0.5)
    expected = pruned_whole(tensors, 0.5)[0]
    same(by_path(safetensors.numpy.load_file(tmp_path / "out.safetensors")), expected)
    tree = flax.serialization.msgpack_restore((tmp_path / "out.msgpack").read_bytes())
    same({leaf.path: leaf.value for leaf in jp_leaves(tree)}, expected)
    WRITERS[".npz"](tmp_path / "in.npz", plain(tensors))
    pruned_file(tmp_path / "in.npz", tmp_path / "out.npz", 0.5)
    with np.load(tmp_path / "out.npz") as found:
        same(by_path(dict(found)), pruned_whole(plain(tensors), 0.5)[0])
    floats = {name: array for name, array in plain(tensors).items() if array.size}
    WRITERS[".npz"](tmp_path / "floats.npz", floats)
    pruned_file(tmp_path / "floats.npz", tmp_path / "orbax", 0.5)
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(tmp_path / "orbax")
    found = {leaf.path: np.asarray(leaf.value) for leaf in jp_leaves(tree)}
    assert set(found) == {name.replace(".", "/") for name in floats}


def jp_leaves(tree):
    from jaxprune._tree import leaves

    return leaves(tree)


def test_a_copy_of_safetensors_differs_in_pruned_bytes_alone(tmp_path):
    """The header of another writer, with its order, spaces and metadata, is kept."""
    weights = normal(4, 4)
    header = (
        b'{"b.weight" :{"shape":[4,4],"dtype":"F32","data_offsets":[3,67]}, '
        b'"__metadata__":{"x":"y"},'
        b'"odd":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}   '
    )
    raw = len(header).to_bytes(8, "little") + header + b"abc" + weights.tobytes()
    (tmp_path / "in.safetensors").write_bytes(raw)
    pruned_file(tmp_path / "in.safetensors", tmp_path / "out.safetensors", 0.5)
    expected = np.asarray(jp.prune({"b/weight": weights}, 0.5)[0]["b/weight"])
    assert (tmp_path / "out.safetensors").read_bytes() == raw[:-64] + expected.tobytes()


def test_a_copy_of_msgpack_keeps_what_is_no_array(tmp_path):
    tree = {
        "params": {"kernel": normal(4, 8), "bias": normal(8)},
        "step": 70_000,
        "name": "x" * 300,
        "none": None,
        "lr": 0.1,
        "neg": [-1, -200, -70_000, 2**40, True, b"raw"],
        "rng": np.uint32(7),
        "z": 1 + 2j,
    }
    raw = flax.serialization.msgpack_serialize(tree)
    (tmp_path / "in.msgpack").write_bytes(raw)
    pruned_file(tmp_path / "in.msgpack", tmp_path / "out.msgpack", 0.5)
    back = flax.serialization.msgpack_restore((tmp_path / "out.msgpack").read_bytes())
    tree["params"]["kernel"] = np.asarray(jp.prune(tree, 0.5)[0]["params"]["kernel"])
    assert (tmp_path / "out.msgpack").read_bytes() == flax.serialization.msgpack_serialize(tree)
    assert back["name"] == tree["name"]
    with pytest.raises(io.CheckpointError, match="'lr', 'name', 'neg/0', no plain arrays"):
        pruned_file(tmp_path / "in.msgpack", tmp_path / "out.safetensors", 0.5)


def test_large_arrays_of_msgpack_lie_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("flax.serialization.MAX_CHUNK_SIZE", 64)
    monkeypatch.setattr("jaxprune.io._msgpack._CHUNK", 64)
    tree = {"a": normal(6, 7), "b": normal(2, 3), "c": normal(5, 5, dtype="bfloat16")}
    (tmp_path / "in.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    pruned_file(tmp_path / "in.msgpack", tmp_path / "out.msgpack", 0.5)
    expected = pruned_whole(tree, 0.5)[0]
    same(flax.serialization.msgpack_restore((tmp_path / "out.msgpack").read_bytes()), expected)
    pruned_file(tmp_path / "in.msgpack", tmp_path / "out.safetensors", 0.5)
    same(safetensors.numpy.load_file(tmp_path / "out.safetensors"), expected)
    pruned_file(tmp_path / "out.safetensors", tmp_path / "again.msgpack", 0.5)
    same(flax.serialization.msgpack_restore((tmp_path / "again.msgpack").read_bytes()), expected)


def test_a_copy_of_npz_keeps_layout_and_members(tmp_path):
    tensors = {
        "big_endian": normal(4, 4).astype(">f4"),
        "fortran": np.asfortranarray(normal(4, 6)),
        "void": np.zeros(3, "V2"),
        "text": np.array(["a", "bc"]),
        "scalar": np.float32(3),
    }
    np.savez_compressed(tmp_path / "in.npz", **tensors)
    with zipfile.ZipFile(tmp_path / "in.npz", "a") as zipped:
        zipped.writestr("README", "by hand")
        zipped.comment = b"kept"
    pruned_file(tmp_path / "in.npz", tmp_path / "out.npz", 0.5, where=jp.any_leaf)
    with np.load(tmp_path / "out.npz") as found:
        for name in ("big_endian", "fortran"):
            native = tensors[name].astype("f4")
            assert found[name].dtype == tensors[name].dtype
            assert found[name].flags.f_contiguous == tensors[name].flags.f_contiguous
            np.testing.assert_array_equal(found[name], jp.prune(native, 0.5)[0])
    old, new = zipfile.ZipFile(tmp_path / "in.npz"), zipfile.ZipFile(tmp_path / "out.npz")
    with old, new:
        assert old.namelist() == new.namelist()
        assert new.comment == b"kept"
        for name in ("void.npy", "text.npy", "scalar.npy", "README"):
            assert old.read(name) == new.read(name)
            assert old.getinfo(name).compress_type == new.getinfo(name).compress_type
            assert old.getinfo(name).date_time == new.getinfo(name).date_time


def test_a_copy_of_orbax_keeps_all_but_the_values(tmp_path):
    tree = {"a": {"kernel": normal(4, 8)}, "list": [normal(2, 2) for _ in range(11)], "step": 3}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "in", tree, custom_metadata={"who": "me"})
    pruned_file(tmp_path / "in", tmp_path / "out", jp.Unstructured(0.5, per="global"))
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "out", tree)
        assert checkpointer.metadata(tmp_path / "out").custom_metadata == {"who": "me"}
    expected = jp.prune(tree, jp.Unstructured(0.5, per="global"))[0]
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (tmp_path / "in/_METADATA").read_bytes() == (tmp_path / "out/_METADATA").read_bytes()


def test_shards_keep_their_names_and_their_index(tmp_path):
    write_sharded(tmp_path / "in", model())
    pruned_file(tmp_path / "in/model.safetensors.index.json", tmp_path / "one.safetensors", 0.5)
    pruned_file(tmp_path / "in", tmp_path / "out", 0.5)
    assert sorted(os.listdir(tmp_path / "in")) == sorted(os.listdir(tmp_path / "out"))
    index = "model.safetensors.index.json"
    assert (tmp_path / "in" / index).read_bytes() == (tmp_path / "out" / index).read_bytes()
    same(contents(tmp_path / "one.safetensors"), contents(tmp_path / "out"))


def test_masks_are_written_beside(tmp_path):
    tensors = model()
    write_safetensors(tmp_path / "in.safetensors", tensors)
    spec = {"head/*": None, "*": jp.Unstructured(0.5, per="global")}
    out, masks = tmp_path / "out.safetensors", tmp_path / "masks.npz"
    pruned_file(tmp_path / "in.safetensors", out, spec, mask_target=masks)
    _, expected = pruned_whole(tensors, spec)
    with np.load(masks) as found:
        same(by_path(dict(found)), {k: np.asarray(m) for k, m in expected.items() if m is not None})


def test_an_orbax_folder_may_be_reached_from_another(tmp_path, monkeypatch):
    write_orbax(tmp_path / "in", {"w": normal(4, 4)})
    np.savez(tmp_path / "in.npz", w=normal(4, 4))
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    pruned_file(Path("../in"), Path("../sub/../out"), 0.5)
    pruned_file(Path("../in.npz"), Path("../sub/../made"), 0.5)
    assert np.count_nonzero(contents(Path("../out"))["w"]) == 8
    assert np.count_nonzero(contents(Path("../made"))["w"]) == 8


def test_names_of_folders_may_have_dots(tmp_path):
    for kind in ("sharded", "orbax"):
        WRITERS[f"_{kind}"](tmp_path / f"{kind}-3.2-1B", {"w": normal(4, 4), "v": normal(4, 4)})
        pruned_file(tmp_path / f"{kind}-3.2-1B", tmp_path / f"{kind}-3.2-1B-pruned", 0.5)
        pruned_file(tmp_path / f"{kind}-3.2-1B", tmp_path / f"{kind}-3.2.npz", 0.5)
        assert (tmp_path / f"{kind}-3.2-1B-pruned").is_dir()
        assert (tmp_path / f"{kind}-3.2.npz").is_file()
    np.savez(tmp_path / "in.npz", w=normal(4, 4))
    pruned_file(tmp_path / "in.npz", f"{tmp_path}/made.dir/", 0.5)
    assert (tmp_path / "made.dir/_METADATA").is_file()


# --- exactness ----------------------------------------------------------------------------------

DTYPES = ("float32", "bfloat16", "float16", "float64")
SPECS = {
    "leaf": jp.Unstructured(0.7),
    "global": jp.Unstructured(0.7, per="global"),
    "a floor": jp.Unstructured(0.9, per="global", min_nonzero=5),
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


@st.composite
def pools(draw):
    """A few leaves with ties, zeros of both signs, NaNs, infinities and subnormals."""
    dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    kind = numpy_dtype(dtype)
    tiny = kind.type(ml_dtypes.finfo(kind).smallest_subnormal)
    values = [0.0, -0.0, 1.0, -1.0, 1.0, 2.0, np.nan, -np.nan, np.inf, -np.inf, tiny, 2 * tiny]
    sizes = (1, 7, 12, 12)  # always these: each other one would be compiled anew
    draws = [draw(st.lists(st.sampled_from(values), min_size=n, max_size=n)) for n in sizes]
    names = draw(st.permutations(["0.w", "1.w", "2.w", "3.w"]))
    return {
        name: np.array(each, kind).reshape(1, -1) for name, each in zip(names, draws, strict=True)
    }


@given(pools(), st.floats(0, 0.999), st.integers(0, 2))
def test_a_global_budget_is_the_library_s_to_the_last_tie(tensors, sparsity, held):
    spec = jp.Unstructured(
        sparsity, per="global", min_nonzero=min(held, *map(np.size, tensors.values()))
    )
    library = make_mask(jp.importance(by_path(tensors), jp.L1()), spec)
    sizes = [array.size for array in tensors.values()]
    count = int(np.floor(np.float32(sparsity) * np.float32(sum(sizes))))
    count = min(count, sum(sizes) - spec.min_nonzero * len(sizes))
    shares = dict.fromkeys(tensors, 0)
    width = 8 * next(iter(tensors.values())).itemsize

    def pieces(name):
        return Ordered(tensors[name].reshape(-1), magnitudes).pieces()

    if count:
        names, held = list(tensors), spec.min_nonzero
        cut = find_cut(names, pieces, count, held=held, width=width)
        shares = {name: cut.take(name, pieces(name)) for name in sorted(names)}
    for name in tensors:
        ordered = Ordered(tensors[name].reshape(-1), magnitudes)
        kept = survivors(ordered, shares[name], width=width).reshape(tensors[name].shape)
        np.testing.assert_array_equal(kept, library[name.replace(".", "/")], name)


@given(pools())
def test_keys_are_the_library_s(tensors):
    for array in tensors.values():
        found = keys(array).reshape(-1)
        signed = np.asarray(library_keys(jax.numpy.asarray(array))).reshape(-1)
        lowest = np.iinfo(signed.dtype).min
        np.testing.assert_array_equal(found.astype(object), signed.astype(object) - int(lowest))


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


def test_a_report_is_the_library_s(checkpoint):
    path, tensors = checkpoint
    with io.open_checkpoint(path) as source:
        found = io.report_checkpoint(source)
    with jax.enable_x64(True):
        assert str(found) == str(jp.report(by_path(tensors)))


def test_a_histogram_counts_every_finite_value():
    values = np.array([-3.0, 0.0, 1.0, 1.0, 5.0, np.nan, np.inf], np.float32)
    counts, lowest, highest = io.histogram(values)
    assert (sum(counts), lowest, highest) == (5, -3.0, 5.0)
    assert (counts[0], counts[-1]) == (1, 1)
    assert io.histogram(np.array([np.nan])) is None
    assert sum(io.histogram(np.array([-1.7e308, 1.7e308]))[0]) == 2
    assert sum(io.histogram(np.zeros(3, ml_dtypes.bfloat16))[0]) == 3


# --- what lies ----------------------------------------------------------------------------------


def raw_safetensors(header, size=0):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def entry(start, stop, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


LIES = {
    "claims": raw_safetensors({})[:5],
    "claims 100000001 bytes": (100_000_001).to_bytes(8, "little") + b"{}" + bytes(99),
    "claims 9": (9).to_bytes(8, "little") + b"{}",
    "is not JSON": raw_safetensors(b"{]"),
    "nested too deep": raw_safetensors(b"[" * 100_000),
    "not a JSON object": raw_safetensors(b"[1]"),
    "names 'a' twice": raw_safetensors(b'{"a":{},"a":{}}'),
    "unknown dtype": raw_safetensors({"a": entry(0, 4, [1], "F33")}, 4),
    "impossible shape": raw_safetensors({"a": entry(0, 4, [-1])}, 4),
    r"shape \[True\]": raw_safetensors({"a": entry(0, 4, [True])}, 4),
    r"shape \[1000": raw_safetensors({"a": entry(0, 4, [10**30])}, 4),
    r"shape \[1, 1": raw_safetensors({"a": entry(0, 4, [1] * 65)}, 4),
    r"shape \[4611686018427387904, 46": raw_safetensors({"a": entry(0, 0, [2**62, 2**62, 0])}),
    r"shape \[-1\]": raw_safetensors(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'),
    "surrogates not": raw_safetensors(b'{"\\ud800":{}}'),
    "impossible offsets": raw_safetensors({"a": entry(4, 0, [1])}, 4),
    "cannot take": raw_safetensors({"a": entry(0, 4, [2**30, 2**30])}, 4),
    "overlaps": raw_safetensors({"a": entry(0, 4, [1]), "b": entry(2, 6, [1])}, 6),
    "hole": raw_safetensors({"a": entry(0, 4, [1]), "b": entry(5, 9, [1])}, 9),
    "take 8 bytes, and the file has 7": raw_safetensors({"a": entry(0, 8, [2])}, 7),
    "take 4 bytes, and the file has 5": raw_safetensors({"a": entry(0, 4, [1])}, 5),
    "should have dtype": raw_safetensors({"a": 3}),
    "should map text to text": raw_safetensors({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("words", LIES)
def test_a_lying_header_is_refused_with_words(words, tmp_path):
    path = tmp_path / "in.safetensors"
    path.write_bytes(LIES[words])
    with pytest.raises(io.CheckpointError, match=words) as caught:
        io.open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises((safetensors.SafetensorError, ValueError)):
        safetensors.numpy.load_file(path)


def mutated(draw, raw):
    """A file with some bytes changed, taken out or put in."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        gone = draw(st.integers(0, 3))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + gone :]
    return raw


@settings(max_examples=150)
@given(st.data())
def test_a_mutated_safetensors_file_is_read_as_its_owners_read_it_or_refused(data):
    small = {"a": np.arange(3, dtype=np.float32), "b": np.arange(4, dtype=np.int8).reshape(2, 2)}
    raw = mutated(data.draw, safetensors.numpy.save(small, {"k": "v"}))
    check_mutated(raw, ".safetensors", safetensors.numpy.load)


@settings(max_examples=100)
@given(st.data())
def test_a_mutated_msgpack_file_is_read_as_its_owners_read_it_or_refused(data):
    small = {"a": {"b": np.arange(3, dtype=np.float32), "s": 3}, "c": np.int32(4)}
    raw = mutated(data.draw, flax.serialization.msgpack_serialize(small))
    check_mutated(raw, ".msgpack")


@settings(max_examples=60)
@given(st.data())
def test_a_mutated_npz_file_is_read_or_refused(data):
    import io as memory

    file = memory.BytesIO()
    np.savez_compressed(file, a=np.arange(3, dtype=np.float32), b=np.ones((2, 2)))
    check_mutated(mutated(data.draw, file.getvalue()), ".npz")


def check_mutated(raw, suffix, load=None):
    """Never anything but one of our errors; and what is taken has the values of its owners."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder, f"in{suffix}")
        path.write_bytes(raw)
        try:
            found = contents(path)
        except io.CheckpointError:
            return
    if load:
        owners = load(raw)
        assert set(owners) == set(found)
        for name, array in owners.items():
            assert array.tobytes() == found[name].tobytes()


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"{", "expected JSON with a weight_map"),
        (b"[]", "expected JSON with a weight_map"),
        (b'{"weight_map": {}}', "its weight_map is {}"),
        (b'{"weight_map": {"a": "../x.safetensors"}}', "a file name without folders"),
        (b'{"weight_map": {"zzz": "a.safetensors"}}', "do not agree on 'w'"),
    ],
)
def test_a_lying_index_is_refused(index, words, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"w": normal(2, 2)})
    (tmp_path / "m.safetensors.index.json").write_bytes(index)
    with pytest.raises(io.CheckpointError, match=words):
        io.open_checkpoint(tmp_path / "m.safetensors.index.json")


def test_folders_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(io.CheckpointError, match="has no _METADATA"):
        io.open_checkpoint(tmp_path)
    (tmp_path / "10/default").mkdir(parents=True)
    (tmp_path / "10/default/_METADATA").write_text("{}")
    with pytest.raises(io.CheckpointError, match=r"name .*10/default"):
        io.open_checkpoint(tmp_path / "10")
    with pytest.raises(io.CheckpointError, match="not what Orbax writes"):
        io.open_checkpoint(tmp_path / "10/default")


def test_a_zip_at_odds_with_its_directory_is_refused(tmp_path):
    """A member that is no array is read only when it is copied."""
    path = tmp_path / "in.npz"
    np.savez(path, w=normal(2, 2))
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("README", "by hand")
    path.write_bytes(path.read_bytes().replace(b"README", b"ERRATA", 1))
    with pytest.raises(io.CheckpointError, match=r"in.npz is no whole npz file: .*differ"):
        pruned_file(path, tmp_path / "out.npz", 0.5)
    assert os.listdir(tmp_path) == ["in.npz"]


def test_an_orbax_folder_without_its_arrays_is_refused(tmp_path):
    write_orbax(tmp_path / "in", {"w": normal(2, 2)})
    shutil.rmtree(tmp_path / "in/d")
    shutil.rmtree(tmp_path / "in/ocdbt.process_0")
    with pytest.raises(io.CheckpointError, match="should hold the array 'w'"):
        io.open_checkpoint(tmp_path / "in")


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    source = tmp_path / "in.safetensors"
    write_safetensors(source, model())
    with pytest.raises(io.CheckpointError, match="bfloat16, which npz cannot hold"):
        pruned_file(source, tmp_path / "out.npz", 0.5)
    with pytest.raises(io.CheckpointError, match="an extension that means no format"):
        pruned_file(source, tmp_path / "out.bin", 0.5)
    with pytest.raises(io.CheckpointError, match="written to a folder: name it"):
        pruned_file(source, tmp_path / "out.safetensors.index.json", 0.5)
    np.savez(tmp_path / "in.npz", w=normal(2, 2), z=np.zeros(2, complex))
    with pytest.raises(io.CheckpointError, match="complex128 has no place in a safetensors"):
        pruned_file(tmp_path / "in.npz", tmp_path / "out.safetensors", 0.5)
    np.savez(tmp_path / "two.npz", **{"a/b": normal(2, 2), "a/b/c": normal(2, 2)})
    with pytest.raises(io.CheckpointError, match="cannot both stand in a tree"):
        pruned_file(tmp_path / "two.npz", tmp_path / "out.msgpack", 0.5)
    named = {"w": normal(2, 2), "a\0b": normal(2, 2)}
    write_safetensors(source, named)
    with pytest.raises(io.CheckpointError, match=r"'a\\x00b' has a NUL in its name"):
        pruned_file(source, tmp_path / "out.npz", 0.5)
    np.savez(tmp_path / "empty.npz", w=normal(2, 2), e=np.zeros((0, 3)))
    with pytest.raises(io.CheckpointError, match=r"'e' has the shape \(0, 3\), and Orbax"):
        pruned_file(tmp_path / "empty.npz", tmp_path / "out", 0.5)
    names = ["empty.npz", "in.npz", "in.safetensors", "two.npz"]
    assert sorted(os.listdir(tmp_path)) == names


def test_a_folder_that_cannot_be_copied_is_told(tmp_path):
    write_orbax(tmp_path / "in", {"w": normal(2, 2)})
    (tmp_path / "in/gone").symlink_to("nowhere")
    with pytest.raises(io.CheckpointError, match=r"gone could not be copied: .*No such file"):
        pruned_file(tmp_path / "in", tmp_path / "out", 0.5)


# --- whole or not at all ------------------------------------------------------------------------


def rubbish(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(target) as temporary:
        temporary.write_text("half, and then \udcff", "utf-8")
    assert (target.read_text(), os.listdir(tmp_path)) == ("old", ["out"])


def test_a_new_file_has_the_permissions_of_the_one_it_replaces(tmp_path):
    target = tmp_path / "out"
    for mode in (0o640, 0o604):
        target.write_text("old")
        target.chmod(mode)
        with replacing(target) as temporary:
            temporary.write_text("new")
        assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_text() == "new"


def test_what_a_dead_run_left_is_swept_and_what_is_being_written_is_not(tmp_path):
    target = tmp_path / "o[u]t"
    left, other = tmp_path / ".o[u]t.x.jaxprune-part", tmp_path / ".other.x.jaxprune-part"
    left.write_text("half")
    other.write_text("half of something else")
    with replacing(target) as first, replacing(target) as second:
        assert not left.exists()
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"
    assert rubbish(tmp_path) == [other.name]


def test_a_folder_is_not_written_over(tmp_path):
    write_sharded(tmp_path / "in", model())
    (tmp_path / "out").mkdir()
    pruned_file(tmp_path / "in", tmp_path / "out", 0.5)  # an empty one is
    with pytest.raises(io.CheckpointError, match="out exists, and a folder is only written whole"):
        pruned_file(tmp_path / "in", tmp_path / "out", 0.5)
    with pytest.raises(io.CheckpointError, match="belongs to the input"):
        pruned_file(tmp_path / "in", tmp_path / "in", 0.5)
    assert not rubbish(tmp_path)


def refuses_to_write(source, target):
    with pytest.raises(io.CheckpointError, match=r"belongs to the input.* name another output"):
        pruned_file(source, target, 0.5)
    masks = target.parent / f"{target.name}.npz"
    if target.is_file():  # a file of any name, for the masks
        masks.symlink_to(target)
    with pytest.raises(io.CheckpointError, match="belongs to the input"):
        pruned_file(source, source.parent / "out.safetensors", 0.5, mask_target=masks)
    masks.unlink(missing_ok=True)


def test_no_file_of_an_input_is_written_over(tmp_path):
    write_sharded(tmp_path / "sharded", model())
    write_orbax(tmp_path / "orbax", {"w": normal(4, 4)})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in os.listdir(tmp_path / "sharded"):
        index = tmp_path / "sharded/model.safetensors.index.json"
        for source in (tmp_path / "sharded", index):
            refuses_to_write(source, tmp_path / "sharded" / name)
    for name in ("_METADATA", "sub", "d/sub.safetensors", "../orbax/sub"):
        refuses_to_write(tmp_path / "orbax", tmp_path / "orbax" / name)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_file_that_reads_back_otherwise_is_not_put_in_place(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "in.safetensors", model())
    (tmp_path / "out.safetensors").write_text("old")
    write = io._spans.SpanWriter.put
    broken = {"head.weight"}

    def put(self, tensor, array):
        write(self, tensor, array + 1 if tensor.name in broken else array)

    monkeypatch.setattr(io._spans.SpanWriter, "put", put)
    with pytest.raises(io.CheckpointError, match="reads back otherwise"):
        pruned_file(tmp_path / "in.safetensors", tmp_path / "out.safetensors", 0.5)
    assert (tmp_path / "out.safetensors").read_text() == "old"
    assert not rubbish(tmp_path)


KILLED = """
import sys, time
from pathlib import Path
from jaxprune import io, Unstructured
source, target = map(Path, sys.argv[1:])
print("ready", flush=True)
while True:
    with io.open_checkpoint(source) as checkpoint:
        io.prune_checkpoint(checkpoint, target, Unstructured(0.5))
    print("written", flush=True)
"""


def test_killed_at_any_moment_a_whole_file_is_there_and_the_next_run_tidies_up(tmp_path):
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    write_safetensors(source, {f"{i}.weight": normal(64, 512) for i in range(12)})
    pruned_file(source, target, 0.5)
    whole = target.read_bytes()
    old = b"old"
    for trial in range(6):
        target.write_bytes(old)
        running = subprocess.Popen(
            [sys.executable, "-c", KILLED, source, target],
            env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
        )
        running.stdout.readline()
        # In the first run for the one half of the trials, anywhere for the other.
        if trial % 2:
            running.stdout.readline()
        time.sleep(0.013 * trial)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        assert target.read_bytes() in (old, whole)
    pruned_file(source, target, 0.5)
    assert not rubbish(tmp_path)
    assert target.read_bytes() == whole


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack", "_orbax"])
def test_a_disk_that_fills_up_loses_nothing(suffix, tmp_path):
    """A limit on the size of files stands in for it: the write fails in the same way."""
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    WRITERS[suffix](source, {"w.weight": normal(256, 256), "v.weight": normal(256, 256)})
    if suffix != "_orbax":
        target.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises((OSError, io.CheckpointError), match="large") as caught:
            pruned_file(source, target, 0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert suffix == "_orbax" or caught.value.filename == str(target)
    assert not rubbish(tmp_path)
    assert suffix == "_orbax" or target.read_text() == "old"


# --- comparing ----------------------------------------------------------------------------------


def test_a_comparison_counts_overlap_and_drift(tmp_path):
    a = {"w": np.array([[1.0, 2, 0, 0]]), "i": np.arange(3), "x": normal(2), "s": normal(2, 3)}
    b = {"w": np.array([[1.0, 3, 5, 0]]), "i": np.arange(1, 4), "y": normal(2), "s": normal(3, 2)}
    np.savez(tmp_path / "a.npz", **a)
    np.savez(tmp_path / "b.npz", **b)
    with (
        io.open_checkpoint(tmp_path / "a.npz") as one,
        io.open_checkpoint(tmp_path / "b.npz") as two,
    ):
        found = io.compare_checkpoints(one, two)
    assert found.rows == {"w": io.Overlap(4, 2, 0, 1, 1.0, 5.0, 1.0)}
    assert found.rows["w"].iou == 2 / 3
    assert found.rows["w"].drift == pytest.approx(np.sqrt(1 / 5))
    assert (found.only_a, found.only_b, found.others_changed) == (["x"], ["y"], ["i"])
    assert found.changed == {"s": ("float32[2, 3]", "float32[3, 2]")}
    assert "changed: s: float32[2, 3] in A, float32[3, 2] in B" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["all"]["both"] == 2


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 0x7C01), ("bfloat16", 0x7F81)])
def test_signalling_nans_are_met_in_silence(dtype, bits, tmp_path):
    """Warnings are errors here."""
    values = np.array([[bits, 0]], np.uint16).view(numpy_dtype(dtype))
    write_safetensors(tmp_path / "in.safetensors", {"w": values})
    with io.open_checkpoint(tmp_path / "in.safetensors") as source:
        assert np.isnan(io.compare_checkpoints(source, source).all.furthest)
    assert io.histogram(values)[1:] == (0.0, 0.0)


def test_a_comparison_shows_what_is_no_number(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.array([np.nan, np.inf, 1.0]), z=np.zeros(2))
    np.savez(tmp_path / "b.npz", w=np.array([2.0, np.inf, 1.0]), z=np.zeros(2))
    with (
        io.open_checkpoint(tmp_path / "a.npz") as one,
        io.open_checkpoint(tmp_path / "b.npz") as two,
    ):
        found = io.compare_checkpoints(one, two)
    assert np.isnan(found.rows["w"].furthest)
    assert np.isnan(found.all.furthest)
    assert (found.rows["z"].iou, found.rows["z"].drift) == (1.0, 0.0)

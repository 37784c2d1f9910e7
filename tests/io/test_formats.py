"""Reading and writing: all but the pruned values stays as it was."""

import os
import zipfile
from pathlib import Path

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors
import safetensors.numpy

import jaxprune as jp
from jaxprune import io
from tests.io.files import (
    WRITERS,
    by_path,
    contents,
    jp_leaves,
    model,
    normal,
    plain,
    pruned_file,
    pruned_whole,
    same,
    tensors_for,
    write_orbax,
    write_safetensors,
    write_sharded,
)


def test_every_format_is_read(checkpoint):
    path, tensors = checkpoint
    same(by_path(contents(path)), by_path(tensors))


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
    monkeypatch.setattr("jaxprune.io._msgpack_layout._CHUNK", 64)
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

"""Files that lie: each is refused in words, or read as its owners read it."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import flax.serialization
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import io
from tests.io.files import (
    contents,
    normal,
    pruned_file,
    write_orbax,
    write_safetensors,
    write_sharded,
)


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
    "holds half of a surrogate pair": raw_safetensors(b'{"\\ud800":{}}'),
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
        (b'{"weight_map": {"w": "a.safetensors", "w": "a.safetensors"}}', "names 'w' twice"),
        (b'{"weight_map": {"w": "a\\u0000b"}}', "a file name without folders"),
        (b'{"weight_map": {"w": "a\\ud800b"}}', "it is not JSON"),
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


def test_shards_that_the_index_does_not_name_are_told(tmp_path):
    write_sharded(tmp_path / "in", {"w": normal(2, 2), "v": normal(2, 2)})
    index = tmp_path / "in/model.safetensors.index.json"
    index.write_text('{"weight_map": {"w": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(io.CheckpointError, match=r"does not name model-00002-of-00002.safetensors"):
        io.open_checkpoint(tmp_path / "in")
    (tmp_path / "in/model-00002-of-00002.safetensors").rename(tmp_path / "in/other.safetensors")
    assert set(contents(tmp_path / "in")) == {"w"}


@pytest.mark.parametrize("dtype", ["gloat32", "4f4", "V0", "999999999f4", "O", "finfo", "f4,f4"])
def test_msgpack_knows_the_dtypes_that_flax_reads(dtype, tmp_path):
    raw = flax.serialization.msgpack_serialize({"w": np.ones((2, 2), np.float32)})
    old, new = b"\xa7float32", bytes([0xA0 + len(dtype)]) + dtype.encode()
    at = raw.index(b"\xc7")  # the length of the array's object
    raw = raw[: at + 1] + bytes([raw[at + 1] + len(new) - len(old)]) + raw[at + 2 :]
    (tmp_path / "in.msgpack").write_bytes(raw.replace(old, new))
    with pytest.raises(io.CheckpointError, match="'w' has the unknown dtype"):
        io.open_checkpoint(tmp_path / "in.msgpack")


def test_a_truth_value_is_no_side_of_an_array(tmp_path):
    np.savez(tmp_path / "in.npz", w=np.ones((1, 16), np.float32))
    with zipfile.ZipFile(tmp_path / "in.npz") as zipped:
        member = zipped.read("w.npy").replace(b"(1, 16), }   ", b"(True, 16), }")
    assert b"True" in member
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as zipped:
        zipped.writestr("w.npy", member)
    with pytest.raises(io.CheckpointError, match=r"in.npz is no whole npz file: 'w'.*True"):
        io.open_checkpoint(tmp_path / "in.npz")


@pytest.mark.parametrize(
    "header",
    [
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 5000},)}}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': (",
        "{'descr': '<f4', 'fortran_order': False, ('shape',): (4,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2**40,)}",
    ],
    ids=["digits", "cut", "key", "power"],
)
def test_a_header_that_numpy_cannot_read_is_told_in_one_line(header, tmp_path):
    text = header.encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as zipped:
        zipped.writestr("w.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text)
    words = r"in.npz is no whole npz file: 'w.npy' has a broken header (?!.* at 0x)"
    with pytest.raises(io.CheckpointError, match=words):
        io.open_checkpoint(tmp_path / "in.npz")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\x81\xc0\x01", "a key is neither a text nor an integer"),
        (b"\x81\xd4\x01\x00\x01", "an array is not made of shape, dtype and bytes"),
        (b"\x82\xa1w\x01\xa1w\x02", "the key 'w' stands there twice"),
    ],
    ids=["nil", "extension", "twice"],
)
def test_keys_of_msgpack_that_no_tree_has(raw, words, tmp_path):
    (tmp_path / "in.msgpack").write_bytes(raw)
    with pytest.raises(io.CheckpointError, match=words) as caught:
        io.open_checkpoint(tmp_path / "in.msgpack")
    assert " at 0x" not in str(caught.value)

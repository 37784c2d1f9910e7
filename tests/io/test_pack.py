"""Packed files: smaller, readable by others, and to the byte what went in when unpacked."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from jaxprune import io
from jaxprune.io import _bitmask
from tests.io.files import WRITERS, contents, normal, pruned_file, same, tensors_for
from tests.io.test_lies import mutated, raw_safetensors


def packed_file(source, target):
    with io.open_checkpoint(source) as checkpoint:
        return io.pack_checkpoint(checkpoint, target)


def sparse(*shape, dtype="float32", keep=0.3):
    values = normal(*shape, dtype=dtype)
    return np.where(np.random.default_rng(1).random(shape) < keep, values, values.dtype.type(0))


DTYPES = ["float32", "bfloat16", "float16", "float64", "float8_e4m3fn", "int8", "int64", "bool"]


def many():
    tensors = {f"{d}.weight": sparse(24, 33, dtype=d) for d in DTYPES}
    return tensors | {
        "conv.weight": sparse(8, 4, 3, 3),
        "vector": sparse(500),
        "complex": sparse(30, 30).astype(np.complex64),
        "zeros": np.zeros((40, 7), np.float32),
        "minus": np.where(np.arange(600) % 5, 0.0, -0.0).astype(np.float32).reshape(20, 30),
        "nan": np.where(np.arange(600) % 5, 0.0, np.nan).astype(np.float32).reshape(20, 30),
        "dense": normal(9, 9),
        "scalar": np.array(0, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }


@pytest.mark.parametrize("piece", [8, 64, 1 << 20])
def test_a_safetensors_file_comes_back_byte_for_byte(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(_bitmask, "PIECE", piece)
    old, packed, new = (tmp_path / f"{name}.safetensors" for name in ("old", "packed", "new"))
    safetensors.numpy.save_file(many(), old, metadata={"format": "pt", "of": "é"})
    done = packed_file(old, packed)
    assert (done.tensors, done.dense) == (14, sum(a.nbytes for a in many().values()))
    assert done.packed < 0.6 * done.dense
    assert io.unpack_checkpoint(packed, new) == done
    assert new.read_bytes() == old.read_bytes()


def test_the_header_of_another_writer_comes_back(tmp_path):
    header = (
        b'{"b.weight" :{"shape":[8,64],"dtype":"F32","data_offsets":[3,2051]}, '
        b'"__metadata__":{"x":"y"},'
        b'"odd":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}   '
    )
    raw = len(header).to_bytes(8, "little") + header + b"abc" + sparse(8, 64).tobytes()
    old, packed, new = (tmp_path / f"{name}.safetensors" for name in ("old", "packed", "new"))
    old.write_bytes(raw)
    assert packed_file(old, packed).tensors == 1
    io.unpack_checkpoint(packed, new)
    assert new.read_bytes() == raw


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_packed(kind, tmp_path):
    WRITERS[kind](tmp_path / f"in{kind}", tensors_for(kind))
    pruned_file(tmp_path / f"in{kind}", tmp_path / f"sparse{kind}", 0.9)
    packed_file(tmp_path / f"sparse{kind}", tmp_path / "packed.safetensors")
    suffix = ".safetensors" if kind == "_sharded" else kind
    io.unpack_checkpoint(tmp_path / "packed.safetensors", tmp_path / f"back{suffix}")
    same(contents(tmp_path / f"back{suffix}"), contents(tmp_path / f"sparse{kind}"))


def test_dtypes_that_safetensors_lacks_are_packed(tmp_path):
    tensors = {
        "a": sparse(20, 20).astype(np.complex128),
        "b": np.ones((2, 2), np.complex128),
        "text": np.array([["a", ""], ["", ""]]),
    }
    np.savez(tmp_path / "in.npz", **tensors)
    packed_file(tmp_path / "in.npz", tmp_path / "packed.safetensors")
    io.unpack_checkpoint(tmp_path / "packed.safetensors", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        same(dict(found), tensors)
    raw = {"f": np.zeros((40, 40), ml_dtypes.float8_e3m4)}
    (tmp_path / "in.msgpack").write_bytes(flax.serialization.msgpack_serialize(raw))
    packed_file(tmp_path / "in.msgpack", tmp_path / "packed.safetensors")
    io.unpack_checkpoint(tmp_path / "packed.safetensors", tmp_path / "out.msgpack")
    assert contents(tmp_path / "out.msgpack")["f"].dtype == ml_dtypes.float8_e3m4


def test_others_can_read_the_layout(tmp_path):
    """The sparse-bitmask format of compressed-tensors, decoded as its documents say."""
    weights = sparse(16, 21)
    safetensors.numpy.save_file({"l.weight": weights}, tmp_path / "in.safetensors")
    packed_file(tmp_path / "in.safetensors", tmp_path / "packed.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "packed.safetensors")
    assert set(found) == {"l.shape", "l.compressed", "l.bitmask", "l.row_offsets"}
    assert found["l.shape"].tolist() == [16, 21]
    assert found["l.bitmask"].shape == (16, 3)
    bits = np.unpackbits(found["l.bitmask"], axis=-1, count=21, bitorder="little").astype(bool)
    decoded = np.zeros((16, 21), np.float32)
    decoded[bits] = found["l.compressed"]
    np.testing.assert_array_equal(decoded, weights)
    starts = [np.count_nonzero(weights[:row]) for row in range(16)]
    assert found["l.row_offsets"].tolist() == starts


def test_names_that_would_collide_stay_dense(tmp_path):
    tensors = {"a.weight": sparse(40, 40), "a.bitmask": normal(2), "a": sparse(40, 40)}
    safetensors.numpy.save_file(tensors, tmp_path / "in.safetensors")
    assert packed_file(tmp_path / "in.safetensors", tmp_path / "p.safetensors").tensors == 0
    io.unpack_checkpoint(tmp_path / "p.safetensors", tmp_path / "out.safetensors")
    same(contents(tmp_path / "out.safetensors"), tensors)


def test_what_cannot_be_packed_or_unpacked_is_refused(tmp_path):
    safetensors.numpy.save_file({"w": sparse(9, 99)}, tmp_path / "in.safetensors")
    packed_file(tmp_path / "in.safetensors", tmp_path / "p.safetensors")
    with pytest.raises(io.CheckpointError, match="packed already"):
        packed_file(tmp_path / "p.safetensors", tmp_path / "q.safetensors")
    with pytest.raises(io.CheckpointError, match=r"a packed file is a \.safetensors file"):
        packed_file(tmp_path / "in.safetensors", tmp_path / "q.npz")
    with pytest.raises(io.CheckpointError, match="belongs to the input"):
        packed_file(tmp_path / "in.safetensors", tmp_path / "in.safetensors")
    with pytest.raises(io.CheckpointError, match="not written by jaxprune pack"):
        io.unpack_checkpoint(tmp_path / "in.safetensors", tmp_path / "q.safetensors")
    with pytest.raises(io.CheckpointError, match="belongs to the input"):
        io.unpack_checkpoint(tmp_path / "p.safetensors", tmp_path / "p.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["in.safetensors", "p.safetensors"]


@given(st.data())
def test_a_packed_file_that_lies_is_unpacked_or_refused(data):
    with TemporaryDirectory() as name:
        folder = Path(name)
        small = {"a": sparse(8, 24), "b": normal(2)}
        safetensors.numpy.save_file(small, folder / "in.safetensors")
        packed_file(folder / "in.safetensors", folder / "p.safetensors")
        raw = (folder / "p.safetensors").read_bytes()
        if data.draw(st.booleans()):
            raw = mutated(data.draw, raw)
        else:  # a description that lies in a file that is whole
            length = int.from_bytes(raw[:8], "little")
            header = json.loads(raw[8 : 8 + length])
            text = header["__metadata__"]["jaxprune.packed"]
            cut = mutated(data.draw, text.encode()).decode(errors="replace")
            header["__metadata__"]["jaxprune.packed"] = cut
            raw = raw_safetensors(header) + raw[8 + length :]
        (folder / "p.safetensors").write_bytes(raw)
        try:
            io.unpack_checkpoint(folder / "p.safetensors", folder / "out.safetensors")
        except io.CheckpointError:
            assert sorted(os.listdir(folder)) == ["in.safetensors", "p.safetensors"]

"""What would cost out of proportion to its size is refused, and so is what never ends."""

import os
import tracemalloc
import zipfile

import flax.serialization
import numpy as np
import pytest

from jaxprune import io
from jaxprune.io import _json, _limits, _msgpack, _safetensors
from tests.io.files import contents, normal, write_orbax, write_safetensors, write_sharded
from tests.io.test_lies import raw_safetensors

INDEX = "model.safetensors.index.json"


with_pipes = pytest.mark.skipif(
    not hasattr(os, "mkfifo"), reason="folders of Windows hold no pipes and no devices"
)


@with_pipes
@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.msgpack", INDEX, "_METADATA"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_regular_files_are_opened(name, kind, tmp_path):
    os.mkfifo(tmp_path / name) if kind == "pipe" else (tmp_path / name).symlink_to("/dev/zero")
    path = tmp_path if name in (INDEX, "_METADATA") else tmp_path / name
    with pytest.raises(io.CheckpointError, match=f"{name} is a {kind}: expected a regular file"):
        io.open_checkpoint(path)


@with_pipes
def test_only_regular_files_are_opened_within_folders(tmp_path):
    write_sharded(tmp_path / "shards", {"w": normal(2, 2), "v": normal(2, 2)})
    shard = tmp_path / "shards/model-00002-of-00002.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(io.CheckpointError, match=r"00002\.safetensors is a pipe"):
        io.open_checkpoint(tmp_path / "shards")
    write_orbax(tmp_path / "orbax", {"w": normal(2, 2)})
    os.mkfifo(tmp_path / "orbax/d/chunk")
    with pytest.raises(io.CheckpointError, match="chunk is a pipe"):
        io.open_checkpoint(tmp_path / "orbax")


def test_a_name_that_repeats_is_found_among_many(tmp_path):
    names = [f'"n{i}":{{}}' for i in range(100_000)]
    header = "{" + ",".join([*names, names[-1]]) + "}"
    (tmp_path / "x.safetensors").write_bytes(raw_safetensors(header.encode()))
    with pytest.raises(io.CheckpointError, match="names 'n99999' twice"):
        io.open_checkpoint(tmp_path / "x.safetensors")


def peak_of_refusing(path, words):
    tracemalloc.start()
    try:
        with pytest.raises(io.CheckpointError, match=words):
            io.open_checkpoint(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["x.safetensors", INDEX, "_METADATA"])
def test_json_has_a_bounded_structure(name, tmp_path):
    is_header = name == "x.safetensors"
    most = _safetensors.MOST_MARKS if is_header else _json.MOST_MARKS
    text = b'{"a":[' + b"[]," * (most // 2) + b"1]}"
    raw = raw_safetensors(text) if is_header else text
    (tmp_path / name).write_bytes(raw)
    path = tmp_path / name if is_header else tmp_path
    peak = peak_of_refusing(path, f"brackets, commas and colons, more than {most}")
    assert peak < 4 * len(raw)


def test_msgpack_has_a_bounded_number_of_objects(tmp_path, monkeypatch):
    monkeypatch.setattr(_msgpack, "_MOST_OBJECTS", 1000)
    path = tmp_path / "x.msgpack"
    path.write_bytes(b"\x81\xa1a\xdd" + (2000).to_bytes(4, "big") + b"\xc0" * 2000)
    with pytest.raises(io.CheckpointError, match="more than 1000 objects that are no arrays"):
        io.open_checkpoint(path)
    arrays = {str(i): np.zeros(2, np.int8) for i in range(400)}  # five objects each, and welcome
    path.write_bytes(flax.serialization.msgpack_serialize(arrays))
    assert len(contents(path)) == 400


def test_a_file_has_a_bounded_number_of_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(_limits, "_MOST_TENSORS", 3)
    tensors = {f"{i}.weight": normal(2, 2) for i in range(4)}
    write_safetensors(tmp_path / "x.safetensors", tensors)
    np.savez(tmp_path / "x.npz", **tensors)
    write_orbax(tmp_path / "x", tensors)
    for name in ("x.safetensors", "x.npz", "x"):
        with pytest.raises(io.CheckpointError, match="has 4 tensors, and 3 are the most"):
            io.open_checkpoint(tmp_path / name)


def test_a_header_of_many_tensors_is_refused_before_it_is_parsed(tmp_path):
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    text = "{" + ",".join(f'"{i}":{entry}' for i in range(200_001)) + "}"
    (tmp_path / "x.safetensors").write_bytes(raw_safetensors(text.encode()))
    peak = peak_of_refusing(tmp_path / "x.safetensors", "has 200001 tensors")
    assert peak < 2 * len(text)


def test_a_compressed_file_does_not_hold_a_hundred_times_its_size(tmp_path):
    path = tmp_path / "x.npz"
    zipped = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with zipped, zipped.open("w.npy", "w", force_zip64=True) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (300 << 20,)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(io.CheckpointError, match=r"claims to hold 3145.*without compression"):
        io.open_checkpoint(path)


def test_what_orbax_describes_is_in_proportion_to_its_folder(tmp_path):
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(tmp_path / "x", {"w": normal(8, 16)})
    path = tmp_path / "x/w/.zarray"
    path.write_text(path.read_text().replace("[8,16]", "[8,160000000000]", 2))
    with pytest.raises(io.CheckpointError, match="claims to hold 5120000000000"):
        io.open_checkpoint(tmp_path / "x")

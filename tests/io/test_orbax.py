"""Orbax folders that are not whole: nothing that is not there is read as zeros."""

import json
import os

import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxprune import io
from tests.io.files import contents, normal, pruned_file

KINDS = {
    "plain": {"use_ocdbt": False},
    "plain zarr3": {"use_ocdbt": False, "use_zarr3": True},
}
CHUNKS = {"plain": "0.0", "plain zarr3": "c/0/0"}


@pytest.fixture(params=KINDS)
def broken(request, tmp_path):
    """A folder, and the file of the only chunk of its array."""
    folder = tmp_path / "in"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**KINDS[request.param])) as checkpointer:
        checkpointer.save(folder, {"a": {"kernel": normal(8, 16)}, "b": {"kernel": normal(4, 4)}})
    return folder, folder / "a.kernel" / CHUNKS[request.param]


def refuses(folder, words):
    target = folder.with_name("out")
    for work in (contents, lambda path: pruned_file(path, target, 0.5)):
        with pytest.raises(io.CheckpointError, match=words) as caught:
            work(folder)
        assert "a.kernel" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert os.listdir(folder.parent) == ["in"]


def test_a_missing_chunk_is_no_layer_of_zeros(broken):
    folder, chunk = broken
    chunk.unlink()
    refuses(folder, "chunk .* is missing")
    chunk.mkdir()
    refuses(folder, "chunk .* is missing")


def test_a_chunk_of_other_bytes_is_told(broken):
    folder, chunk = broken
    raw = chunk.read_bytes()
    for other in (b"abc\n", b"", raw[:-10]):
        chunk.write_bytes(other)
        refuses(folder, "Error reading")


def test_an_array_of_another_dtype_or_shape_is_told(tmp_path):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(tmp_path / "in", {"a": {"kernel": normal(8, 16)}})
    path = tmp_path / "in/a.kernel/.zarray"
    text = path.read_text()
    for change in (("<f4", "<f2"), ("[8,16]", "[8,12]"), ("8", "-8")):
        path.write_text(text.replace(*change))
        refuses(tmp_path / "in", "a.kernel")


def test_fill_values_are_read_where_orbax_reads_them(tmp_path):
    """Orbax once left out chunks of zeros; its metadata says whether it did."""
    kernel = np.zeros((4, 4), np.float32)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(tmp_path / "in", {"a": {"kernel": kernel}})
    path = tmp_path / "in/_METADATA"
    metadata = json.loads(path.read_text())
    metadata["store_array_data_equal_to_fill_value"] = False
    path.write_text(json.dumps(metadata))
    (tmp_path / "in/a.kernel/0.0").unlink()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        found = checkpointer.restore(tmp_path / "in")
    np.testing.assert_array_equal(found["a"]["kernel"], kernel)
    np.testing.assert_array_equal(contents(tmp_path / "in")["a/kernel"], kernel)


@pytest.mark.parametrize("key", ["\\ud800", "../../b/a", "\\u0000", "x" * 5000])
def test_an_odd_key_is_told(key, tmp_path):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(tmp_path / "in", {"a": normal(4, 4)})
    path = tmp_path / "in/_METADATA"
    path.write_text(path.read_text().replace('"key": "a"', f'"key": "{key}"'))
    with pytest.raises(io.CheckpointError, match="in"):
        io.open_checkpoint(tmp_path / "in")


def test_a_key_that_stands_twice_is_refused(tmp_path):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(tmp_path / "in", {"a": normal(4, 4), "b": normal(4, 4)})
    path = tmp_path / "in/_METADATA"
    path.write_text(path.read_text().replace('"key": "b"', '"key": "a"'))
    with pytest.raises(io.CheckpointError, match="names 'a' twice"):
        io.open_checkpoint(tmp_path / "in")

"""Outputs are there as a whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxprune import io
from jaxprune.io._atomic import replacing
from tests.io.files import (
    ROOT,
    WRITERS,
    model,
    normal,
    pruned_file,
    rubbish,
    write_orbax,
    write_safetensors,
    write_sharded,
)

with_modes = pytest.mark.skipif(os.name == "nt", reason="files of Windows have no modes")


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(target) as temporary:
        temporary.write_text("half, and then \udcff", "utf-8")
    assert (target.read_text(), os.listdir(tmp_path)) == ("old", ["out"])


@with_modes
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


@pytest.mark.parametrize("kind", [".safetensors", ".msgpack", "_sharded"])
def test_a_file_that_reads_back_otherwise_is_not_put_in_place(kind, tmp_path, monkeypatch):
    WRITERS[kind](tmp_path / f"in{kind}", model())
    target = tmp_path / f"out{kind}"
    check = io._spans.SpanWriter._check

    def check_of_a_broken_disk(self):
        size = self._path.stat().st_size
        with self._path.open("r+b") as file:
            file.seek(size - 1)
            last = file.read()
            file.seek(size - 1)
            file.write(bytes([last[0] ^ 1]))
        check(self)

    monkeypatch.setattr(io._spans.SpanWriter, "_check", check_of_a_broken_disk)
    with pytest.raises(OSError, match="reads back otherwise") as caught:
        pruned_file(tmp_path / f"in{kind}", target, 0.5)
    assert caught.value.filename == str(target)
    assert not target.exists()
    assert not rubbish(tmp_path)


def test_values_that_read_back_otherwise_are_not_put_in_place(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "in.safetensors", {"w": normal(4, 4)})
    (tmp_path / "out.npz").write_text("old")
    write = io._npz.NpzWriter.put
    monkeypatch.setattr(io._npz.NpzWriter, "put", lambda self, t, array: write(self, t, array + 1))
    with pytest.raises(io.CheckpointError, match="reads back otherwise"):
        pruned_file(tmp_path / "in.safetensors", tmp_path / "out.npz", 0.5)
    assert (tmp_path / "out.npz").read_text() == "old"
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
        running.kill()
        running.communicate()
        assert target.read_bytes() in (old, whole)
    pruned_file(source, target, 0.5)
    assert not rubbish(tmp_path)
    assert target.read_bytes() == whole


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack", "_orbax"])
def test_a_disk_that_fills_up_loses_nothing(suffix, tmp_path):
    """A limit on the size of files stands in for it: the write fails in the same way."""
    resource = pytest.importorskip("resource", reason="Windows does not limit the size of files")
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


@with_modes
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack", "_sharded", "_orbax"])
def test_an_output_is_as_private_as_its_input(suffix, tmp_path):
    source = tmp_path / f"in{suffix}"
    WRITERS[suffix](source, {"w": normal(4, 4), "v": normal(4, 4)})
    for path in (source, *source.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    masks = tmp_path / "masks.npz"
    pruned_file(source, tmp_path / f"out{suffix}", 0.5, mask_target=masks)
    pruned_file(source, tmp_path / "other.safetensors", 0.5)
    out = tmp_path / f"out{suffix}"
    for path in (masks, tmp_path / "other.safetensors", out, *out.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_an_output_and_its_masks_are_put_in_place_together(tmp_path, monkeypatch):
    """The one that is checked last fails, and the other is not left alone."""
    np.savez(tmp_path / "in.npz", w=normal(4, 4))
    read_back = io._outputs._read_back

    def fails(format_, path, target, *rest):
        if target.name == fails.name:
            raise io.CheckpointError("no")
        read_back(format_, path, target, *rest)

    monkeypatch.setattr(io._outputs, "_read_back", fails)
    for fails.name in ("out.npz", "masks.npz"):
        with pytest.raises(io.CheckpointError, match="no"):
            pruned_file(
                tmp_path / "in.npz", tmp_path / "out.npz", 0.5, mask_target=tmp_path / "masks.npz"
            )
        assert os.listdir(tmp_path) == ["in.npz"]


def test_a_full_disk_under_shards_names_the_output(tmp_path, monkeypatch):
    """The index is the last thing to be written."""
    WRITERS["_sharded"](tmp_path / "in", {"w": normal(4, 4), "v": normal(4, 4)})
    write = Path.write_bytes

    def full(path, data):
        if path.name.endswith("index.json"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as caught:
        pruned_file(tmp_path / "in", tmp_path / "out", 0.5)
    assert caught.value.filename == str(tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]

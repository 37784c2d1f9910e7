"""What SECURITY.md promises of files from elsewhere, promise by promise.

That a broken file ends in one line, whatever its bytes, is `test_fuzz.py`'s; that sizes are checked
before memory is allocated, `test_limits.py`'s; that an output is complete or not there,
`test_atomic.py`'s.
"""

import pickle
import tracemalloc
import zipfile
from pathlib import Path

import flax.serialization
import numpy as np
import pytest
import safetensors.numpy

from jaxprune.cli import main
from tests.io.files import contents, normal
from tests.io.test_lies import raw_safetensors


class Trap:
    """What makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def run_all(source, folder):
    """Every command on a file, whatever they answer."""
    masks = ["--mask-out", str(folder / "masks.npz")]
    for name in ("out.safetensors", "out.npz", "out.msgpack", "out", f"same{source.suffix}"):
        main(["prune", str(source), "-o", str(folder / name), "--where", "*", *masks])
    main(["prune", str(source), "--dry-run"])
    main(["report", str(source), "--where", "*"])
    main(["report", str(source), "--where", "*", "--html", str(folder / "page.html")])
    main(["compare", str(source), str(source)])
    main(["pack", str(source), "-o", str(folder / "packed.safetensors")])
    main(["unpack", str(source), "-o", str(folder / "unpacked.safetensors")])
    main(["unpack", str(folder / "packed.safetensors"), "-o", str(folder / "again")])


def test_no_format_is_unpickled(tmp_path):
    trap, out = tmp_path / "sprung", tmp_path / "out"
    out.mkdir()
    objects = np.array([Trap(str(trap))], object)
    np.savez(tmp_path / "x.npz", w=normal(4, 4), objects=objects)
    raw = pickle.dumps({"w": Trap(str(trap))})
    for name in ("x.bin", "x.pt", "x.pkl", "bare.npz", "bare.safetensors", "bare.msgpack"):
        (tmp_path / name).write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as zipped:
        zipped.writestr("w.npy", raw)
    for path in list(tmp_path.iterdir()):
        if path.is_file():
            run_all(path, out)
    assert not trap.exists()
    assert np.count_nonzero(contents(out / "same.npz")["w"]) == 8  # beside the array of objects


NAMES = ["../escaped", "/escaped", "a/../../escaped", "..", "../../escaped/b", "C:\\escaped"]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack"])
def test_no_name_becomes_a_path_outside_of_the_output(suffix, tmp_path):
    out = tmp_path / "deep" / "in" / "out"
    out.mkdir(parents=True)
    source = tmp_path / f"in{suffix}"
    for i, name in enumerate(NAMES):
        tensors = {name: normal(4, 4), "w": normal(4, 4)}
        if suffix == ".safetensors":
            safetensors.numpy.save_file(tensors, source)
        elif suffix == ".npz":
            np.savez(source, **tensors)
        else:
            source.write_bytes(flax.serialization.msgpack_serialize(tensors))
        (out / str(i)).mkdir()
        run_all(source, out / str(i))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", source.name]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["in"]
    assert [p.name for p in (tmp_path / "deep/in").iterdir()] == ["out"]
    assert sorted(p.name for p in out.iterdir()) == [str(i) for i in range(len(NAMES))]
    assert not Path("/escaped").exists()


def test_the_input_is_not_changed(checkpoint, tmp_path):
    path, _ = checkpoint
    out = tmp_path / "out-of-all"
    out.mkdir()
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    before = {file: (file.read_bytes(), file.stat()) for file in files}
    run_all(path, out)
    after = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    assert after == files
    for file, (raw, status) in before.items():
        assert file.read_bytes() == raw
        found = file.stat()
        assert (found.st_mtime_ns, found.st_ino, found.st_mode) == (
            status.st_mtime_ns,
            status.st_ino,
            status.st_mode,
        )


def test_sizes_are_checked_before_memory_is_allocated(tmp_path, capsys):
    entry = '{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
    (tmp_path / "x.safetensors").write_bytes(raw_safetensors(entry.encode()))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as zipped, zipped.open("w.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(file, header)
    big = flax.serialization.msgpack_serialize({"w": np.zeros((3, 3), np.float32)})
    (tmp_path / "x.msgpack").write_bytes(big.replace(b"\x93\x92\x03\x03", b"\x93\x92\x7f\x7f"))
    for name in ("x.safetensors", "x.npz", "x.msgpack"):
        tracemalloc.start()
        assert main(["report", str(tmp_path / name)]) == 2
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        told = capsys.readouterr().err
        assert told.startswith(f"jaxprune: {tmp_path / name} is no whole ")
        assert told.count("\n") == 1
        assert peak < 1 << 22

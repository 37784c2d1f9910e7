"""Prints what pruning a large checkpoint costs: `python -m benchmarks.files [--gigabytes N]`.

Each command runs in a process of its own, beside a plain copy of the same file that is synced as
the commands sync theirs. A ratio is the command's time over the copy's; peak memory is what the
system counted for the process, and is set against the largest tensor.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_MEGA = 1 << 20
_SIDE = 4096  # of the largest tensor, a square of float32: 64 MiB
_SMALL = 16  # of the tensors of a file that has very many

_COPY = """
import os, shutil, sys
shutil.copyfile(sys.argv[1], sys.argv[2])
os.fsync(os.open(sys.argv[2], os.O_RDONLY))
"""


def main() -> None:
    """Makes a checkpoint, runs the commands, prints one table, and takes all away again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4, help="default: %(default)s")
    parser.add_argument("--tensors", type=int, default=50_000, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    size = int(options.gigabytes * 2**30)
    free = shutil.disk_usage(options.folder).free
    if free < 2.5 * size:
        parser.error(f"{options.folder} has {free} bytes free, and needs {2.5 * size:.0f}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, tiny = Path(folder, "in.safetensors"), Path(folder, "tiny.safetensors")
        _generate(source, size)
        _generate(tiny, 0)
        print(_table(source, tiny, Path(folder, "out.safetensors")))
        source.unlink()
        many = Path(folder, "many.safetensors")
        _generate(many, 4 * _SMALL**2 * options.tensors, _SMALL)
        print(_many(many, options.tensors, Path(folder, "out.safetensors")))


def _generate(path: Path, size: int, side: int = _SIDE) -> None:
    """A checkpoint of about so many bytes, in which names are ordered otherwise than tensors."""
    side = side if size else 64
    count = max(1, size // (4 * side * side))
    header = {}
    for i in range(count):
        place = [i * 4 * side**2, (i + 1) * 4 * side**2]
        name = f"layers.{i}.weight"
        header[name] = {"dtype": "F32", "shape": [side, side], "data_offsets": place}
    text = json.dumps(header).encode()
    normal = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for i in range(count):
            file.write(normal * np.float32(1 + i / count))


def _table(source: Path, tiny: Path, out: Path) -> str:
    prune = ["-m", "jaxprune", "prune", source, "-o", out]
    works = {
        "copy": ["-c", _COPY, source, out],
        "prune a tiny file": ["-m", "jaxprune", "prune", tiny, "-o", out],
        "prune": prune,
        "prune --per global": [*prune, "--per", "global"],
        "prune --spec 2:4": [*prune, "--spec", "2:4", "--layout", "torch"],
        "report": ["-m", "jaxprune", "report", source],
        "pack": ["-m", "jaxprune", "pack", source, "-o", out],
    }
    lines = [
        f"{source.stat().st_size / 2**30:.1f} GiB in tensors of {4 * _SIDE**2 // _MEGA} MiB",
        f"{'work':20}{'seconds':>9}{'CPU-s':>8}{'copies':>8}{'GB/s':>7}{'peak MiB':>10}"
        f"{'tensors':>9}",
    ]
    copy = none = 0.0
    for work, arguments in works.items():
        seconds, busy, peak = _run(arguments)
        out.unlink(missing_ok=True)
        size = tiny.stat().st_size if "tiny" in work else source.stat().st_size
        copy, none = copy or seconds, peak if "tiny" in work else none
        tensors = (peak - none) / (4 * _SIDE**2 / _MEGA) if none else 0
        lines.append(
            f"{work:20}{seconds:9.1f}{busy:8.1f}{seconds / copy:8.2f}{size / seconds / 1e9:7.2f}"
            f"{peak:10.0f}{tensors:9.1f}"
        )
    lines.append("tensors: peak memory above that for a tiny file, in largest tensors")
    return "\n".join(lines)


def _many(source: Path, count: int, out: Path) -> str:
    lines = [f"{count:,} tensors of {_SMALL}x{_SMALL}", f"{'work':20}{'seconds':>9}{'CPU-s':>8}"]
    for work, arguments in {
        "prune": ["prune", source, "-o", out],
        "prune --per global": ["prune", source, "-o", out, "--per", "global"],
        "report": ["report", source],
    }.items():
        seconds, busy, _ = _run(["-m", "jaxprune", *arguments])
        lines.append(f"{work:20}{seconds:9.1f}{busy:8.1f}")
    return "\n".join(lines)


def _run(arguments: list[str | Path]) -> tuple[float, float, float]:
    """Seconds, seconds of CPU, and peak memory in MiB, of a Python process."""
    os.sync()
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{arguments} failed with {child.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()

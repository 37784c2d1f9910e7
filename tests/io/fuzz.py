"""Breaks files at random, and checks that every command ends in one line: thousands by hand.

`python -m tests.io.fuzz --count 2000 --seed 1` works on each format within limits of memory and
time, and prints what a broken file led to; `test_fuzz.py` does a few of each.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path

import flax.serialization
import numpy as np
import orbax.checkpoint as ocp
import safetensors.numpy

from jaxprune.cli import main

TREE = {
    "a": {"kernel": np.arange(64, dtype=np.float32).reshape(4, 16) - 30},
    "b": {"kernel": np.arange(12, dtype=np.float32).reshape(4, 3), "bias": np.ones(3, np.float32)},
}
FLAT = {f"{module}/{name}": array for module, of in TREE.items() for name, array in of.items()}
WORDS = [
    *(b"\x00", b"\xff" * 8, b"\x80" * 4, b"-1", b"1e99", b"9" * 30, b"null", b"true", b"{}", b"[]"),
    *(b'"', b"\\ud800", b"\\u0000", b"../..", b"\\", b"F64", b"float16", b"<f8", b"O", b"[-0]"),
    *(struct.pack("<Q", 2**63 - 1), struct.pack(">I", 2**32 - 1), b"\xdf\xff\xff\xff\xff", b"\xc1"),
]


def make(kind: str, path: Path) -> None:
    """A small file or folder of a kind."""
    if kind == "safetensors":
        safetensors.numpy.save_file(FLAT, path, metadata={"format": "pt"})
    elif kind == "msgpack":
        path.write_bytes(flax.serialization.msgpack_serialize(TREE | {"step": 3, "name": "x"}))
    elif kind == "npz":
        np.savez(path, **FLAT)
    elif kind == "deflated.npz":
        np.savez_compressed(path, **FLAT)
    elif kind == "sharded":
        path.mkdir()
        names = [f"model-{i}-of-2.safetensors" for i in (1, 2)]
        halves = {n: a for n, a in FLAT.items() if n[0] == "a"}, {"b/kernel": FLAT["b/kernel"]}
        for name, half in zip(names, halves, strict=True):
            safetensors.numpy.save_file(half, path / name)
        where = {n: name for name, half in zip(names, halves, strict=True) for n in half}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    elif kind == "packed":
        safetensors.numpy.save_file(
            {"w": np.eye(40, dtype=np.float32)}, path.with_name("dense.safetensors")
        )
        quiet(["pack", str(path.with_name("dense.safetensors")), "-o", str(path)])
    else:
        choices = {"use_ocdbt": kind.startswith("ocdbt"), "use_zarr3": kind.endswith("3")}
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**choices)) as checkpointer:
            checkpointer.save(path, TREE)


KINDS = {
    "safetensors": ".safetensors",
    "msgpack": ".msgpack",
    "npz": ".npz",
    "deflated.npz": ".npz",
    "packed": ".safetensors",
    "sharded": "",
    "zarr": "",
    "zarr3": "",
    "ocdbt": "",
    "ocdbt3": "",
}


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """Other bytes: some changed, cut, doubled, put in or swapped with others."""
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(raw) + 1), rng.choice((1, 1, 2, 4, 8, 30))
        some = raw[at : at + length]
        match rng.randrange(8):
            case 0:
                raw = raw[:at] + rng.randbytes(len(some)) + raw[at + length :]
            case 1:
                raw = raw[:at] + raw[at + length :]
            case 2:
                raw = raw[:at] + some + raw[at:]
            case 3:
                raw = raw[:at] + rng.choice(WORDS) + raw[at + length * rng.randrange(2) :]
            case 4:
                raw = raw[: at if rng.random() < 0.3 else len(raw)]
            case 5 if some:
                raw = raw[:at] + bytes([some[0] ^ (1 << rng.randrange(8))]) + raw[at + 1 :]
            case 6:
                other = rng.randrange(len(raw) + 1)
                raw = raw[:at] + raw[other : other + length] + raw[at + length :]
            case _:
                digits = [i for i, byte in enumerate(raw) if 48 <= byte < 58]
                if digits:
                    place = rng.choice(digits)
                    raw = raw[:place] + rng.choice((b"0", b"7", b"10", b"-")) + raw[place + 1 :]
    return raw


def break_one(path: Path, rng: random.Random) -> None:
    """Breaks a file, or one of a folder."""
    if path.is_dir():
        path = rng.choice(sorted(each for each in path.rglob("*") if each.is_file()))
        if rng.random() < 0.1:
            path.unlink()
            if rng.random() < 0.5:
                path.mkdir()
            return
    path.write_bytes(mutate(path.read_bytes(), rng))


def quiet(arguments: list[str]) -> tuple[int, str]:
    """The status of a command, and what it says on stderr."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        return main(arguments), told.getvalue()


def tried(kind: str, seed: int, folder: Path, whole: Path) -> str:
    """What one broken file leads to, in a word; raises if it is none that is allowed."""
    rng = random.Random(f"{kind} {seed}")
    source = folder / f"in{KINDS[kind]}"
    shutil.copytree(whole, source) if whole.is_dir() else shutil.copyfile(whole, source)
    break_one(source, rng)
    target = folder / f"out{KINDS[kind]}"
    if kind == "packed":
        commands = [["unpack", str(source), "-o", str(target)]]
    else:
        commands = [
            ["report", str(source), "--where", "*"],
            ["prune", str(source), "-o", str(target), "--where", "*", "--spec", "unstructured"],
        ]
    words = []
    for command in commands:
        status, told = quiet(command)
        left = sorted(each.name for each in folder.iterdir() if each != source)
        good = (status == 0 and not told) or (
            status == 2
            and told.startswith("jaxprune: ")
            and "bug in jaxprune" not in told
            and (told.count("\n") == 1 or "problems:\n" in told)
            and not left
        )
        if not good:
            raise AssertionError(f"{kind} {seed}: {command[0]} ended with {status}: {told} {left}")
        words.append("read" if status == 0 else "refused")
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return words[-1]


def run() -> None:
    """Breaks as many files of each kind as were asked for."""
    import resource  # of POSIX alone

    parser = argparse.ArgumentParser(prog="python -m tests.io.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for kind in options.kinds:
            whole, work = Path(name, kind), Path(name, f"{kind}.work")
            work.mkdir()
            whole = whole.with_name(f"whole-{kind}{KINDS[kind]}")
            make(kind, whole)
            limit = 6 << 30
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            tally: Counter[str] = Counter()
            slowest = 0.0
            for seed in range(options.seed, options.seed + options.count):
                start = time.process_time()
                try:
                    tally[tried(kind, seed, work, whole)] += 1
                except AssertionError as error:
                    tally["WRONG"] += 1
                    print(error)
                    shutil.rmtree(work)
                    work.mkdir()
                slowest = max(slowest, time.process_time() - start)
            print(kind, dict(tally), f"slowest {slowest:.1f} s", flush=True)


if __name__ == "__main__":
    run()

"""The command line as a process: pipes, terminals, encodings and signals."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxprune import io
from jaxprune.cli import main
from tests.cli.commands import RNG, SIGNALS, prune, run


def test_help_imports_nothing_heavy():
    code = """
import sys
from jaxprune.cli import main
for command in ([], ["prune"], ["report"], ["compare"]):
    try:
        main([*command, "--help"])
    except SystemExit as done:
        assert done.code == 0
print(*sys.modules, file=sys.stderr)
"""
    done = run("-c", code, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--mask-out" in done.stdout
    heavy = {"jax", "numpy", "flax", "optax", "orbax", "tqdm", "ml_dtypes", "jaxprune.io"}
    assert not heavy & set(done.stderr.split())


def test_as_a_process_it_is_quiet_when_piped(model):
    out = model.with_name("out.safetensors")
    arguments = ["-m", "jaxprune", "prune", model, "-o", out]
    done = run(*arguments, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("asked     Unstructured")
    done = run(*arguments[:-1], model, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")


def test_what_cannot_be_encoded_is_escaped(tmp_path):
    np.savez(tmp_path / "é.npz", **{"é": np.ones((2, 2))})
    code = "import sys; from jaxprune.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["-c", code, "report", tmp_path / "é.npz"]
    done = run(*arguments, capture_output=True, variables={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\xe9" in done.stdout


def test_what_orbax_fails_at_is_told(tmp_path):
    """Each tensor is below the limit; the file that Orbax makes of them is not.

    In a process of its own, for its event loop is not done with when Orbax fails.
    """
    pytest.importorskip("resource", reason="Windows does not limit the size of files")
    tensors = {f"w{i}": RNG.normal(size=(80, 80)).astype(np.float32) for i in range(8)}
    np.savez(tmp_path / "in.npz", **tensors)
    code = """
import resource, sys
from jaxprune.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:]))
"""
    what = "prune", tmp_path / "in.npz", "-o", tmp_path / "out", "--sparsity", 0
    done = run("-c", code, *what, capture_output=True, text=True)
    assert done.returncode == 2
    assert "jaxprune: Orbax could not save this: " in done.stderr
    assert os.listdir(tmp_path) == ["in.npz"]


def test_whoever_reads_may_go(model):
    code = "from jaxprune.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    ours, theirs = os.pipe()
    os.close(ours)
    done = run("-c", code, "report", model, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_interrupt_while_jax_is_imported_is_told(model):
    code = """
import builtins, signal, sys
from jaxprune.cli import main
imported = builtins.__import__
def interrupted(name, *rest):
    if name == "jax":
        signal.raise_signal(signal.SIGINT)
    return imported(name, *rest)
builtins.__import__ = interrupted
sys.exit(main(sys.argv[1:]))
"""
    done = run("-c", code, "report", model, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "jaxprune: interrupted; nothing was written.\n"


def test_on_a_terminal_it_shows_progress(model, monkeypatch, capsys):
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    termios = pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    os.set_blocking(ours, False)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        prune(model, "--per", "global")
        terminal.flush()
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "counting" in shown
    assert "pruning" in shown
    assert "B/s" in shown
    assert capsys.readouterr().out.startswith("asked")


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("out", ["out.safetensors", "out_orbax"])
def test_a_signal_leaves_nothing_behind(name, out, model, monkeypatch, capsys):
    """It comes while the last tensor is written; the masks are half-written, too."""
    number = getattr(signal, name)
    before = signal.getsignal(number)
    wrote = io._outputs.raw_bytes

    def interrupts(array):
        signal.raise_signal(number)
        return wrote(array)

    monkeypatch.setattr(io._outputs, "raw_bytes", interrupts)
    masks = model.with_name("masks.npz")
    arguments = ["prune", model, "-o", model.with_name(out), "--mask-out", masks]
    assert main([str(argument) for argument in arguments]) == 128 + number
    what = "interrupted" if name == "SIGINT" else f"ended by {name}"
    assert capsys.readouterr().err == f"jaxprune: {what}; nothing was written.\n"
    assert os.listdir(model.parent) == [model.name]
    assert signal.getsignal(number) is before


def test_a_signal_after_the_output_is_in_place_says_so(model, monkeypatch, capsys):
    sync = io._atomic.sync

    def interrupts(path):
        if path.is_dir():  # only the folder is left to do
            signal.raise_signal(signal.SIGTERM)
        sync(path)

    monkeypatch.setattr(io._atomic, "sync", interrupts)
    out = model.with_name("out.safetensors")
    assert main(["prune", str(model), "-o", str(out)]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == f"jaxprune: ended by SIGTERM; written: {out}.\n"
    assert out.is_file()


def test_a_signal_that_is_ignored_stays_ignored(model):
    code = """
import signal, sys
from jaxprune.cli import main
signal.signal(signal.SIGINT, signal.SIG_IGN)
from jaxprune import io
open_checkpoint = io.open_checkpoint
def interrupted(path):
    signal.raise_signal(signal.SIGINT)
    return open_checkpoint(path)
io.open_checkpoint = interrupted
sys.exit(main(sys.argv[1:]))
"""
    done = run("-c", code, "report", model, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

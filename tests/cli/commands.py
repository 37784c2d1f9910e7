"""A checkpoint as PyTorch names things, ways to run commands on it, and what may end them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy

from jaxprune.cli import main

ROOT = Path(__file__).parents[2]


RNG = np.random.default_rng(0)


TORCH = {
    "model.layers.0.mlp.up_proj.weight": RNG.normal(size=(8, 16)).astype(np.float32),
    "model.layers.0.norm.weight": np.ones(8, np.float32),
    "model.embed_tokens.weight": RNG.normal(size=(6, 8)).astype(np.float32),
    "lm_head.weight": RNG.normal(size=(4, 8)).astype(np.float32),
    "conv.weight": RNG.normal(size=(4, 8, 3, 3)).astype(np.float32),
    "conv.bias": RNG.normal(size=4).astype(np.float32),
}


# Windows has the first two alone.
SIGNALS = [
    name
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGXCPU")
    if hasattr(signal, name)
]


BY_PATH = {name.replace(".", "/"): array for name, array in TORCH.items()}


def prune(model, *options):
    """What the command writes, by path."""
    out = model.with_name("out.safetensors")
    assert main(["prune", str(model), "-o", str(out), *options]) == 0
    return {k.replace(".", "/"): v for k, v in safetensors.numpy.load_file(out).items()}


def refused(capsys, *arguments):
    """The one line that a command fails with."""
    assert main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("jaxprune: ")
    assert told.err.count("\n") == 1
    return told.err


def run(*arguments, variables=None, **options):
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (variables or {}),
        check=False,
        **options,
    )

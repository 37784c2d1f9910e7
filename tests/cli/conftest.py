"""A file to run commands on, and signals as a terminal gives them."""

import signal

import pytest
import safetensors.numpy

from tests.cli.commands import SIGNALS, TORCH


@pytest.fixture(autouse=True)
def signals_do_what_they_do_by_default():
    """What runs in the background, or under `nohup`, inherits some of them as ignored."""
    before = {
        number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, SIGNALS)
    }
    for number in before:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(TORCH, path)
    return path

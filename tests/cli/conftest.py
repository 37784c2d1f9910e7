"""A file to run commands on."""

import pytest
import safetensors.numpy

from tests.cli.commands import TORCH


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(TORCH, path)
    return path

"""Four processes of two devices each, which talk over a network, give what one device gives."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests import oracle
from tests.processes import worker

PROCESSES = 4

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="jaxlib for Windows has no way for CPUs to talk to each other"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where each process wrote down what it got."""
    folder = tmp_path_factory.mktemp("processes")
    root = pathlib.Path(__file__).parents[2]
    devices = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.processes.worker"]
    started = [
        subprocess.Popen(
            [*command, str(process), str(PROCESSES), address, str(folder)],
            cwd=root,
            env=os.environ | devices,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(PROCESSES)
    ]
    try:
        said = [each.communicate(timeout=400)[0] for each in started]
    finally:
        for each in started:
            each.kill()
    assert [each.returncode for each in started] == [0] * PROCESSES, "\n".join(said)
    return folder


@pytest.mark.parametrize("spec", worker.SPECS)
@pytest.mark.parametrize("how", ["eager", "jit"])
def test_masks_of_every_process_are_those_of_one_device(folder, how, spec):
    scores = worker.weights()
    if spec == "global":
        expected = dict(
            zip(scores, oracle.masks(worker.SPECS[spec], [*scores.values()]), strict=True)
        )
    else:
        expected = {"first": oracle.mask(worker.SPECS[spec]["first"], scores["first"])}
    for process in range(PROCESSES):
        with np.load(folder / f"{process}.npz") as found:
            for name, mask in expected.items():
                np.testing.assert_array_equal(found[f"{how} {spec} {name}"], mask)


def test_every_process_reads_the_same_numbers_as_one_device(folder):
    params = worker.weights()
    mask = jp.make_mask(params, worker.SPECS["global"], where=jp.any_leaf)
    expected = worker.numbers(params, mask, worker.batch())
    for process in range(PROCESSES):
        said = json.loads((folder / f"{process}.json").read_text())
        assert {name: said[name] for name in expected} == expected


def test_pruning_with_data_that_is_spread_over_processes_is_that_of_one_device(folder):
    expected = worker.with_data(jax.tree.map(jnp.asarray, worker.weights()), worker.batch())
    for process in range(PROCESSES):
        with np.load(folder / f"{process}.npz") as found:
            for name, value in expected.items():
                # Sums over the batch are made in another order.
                np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_loss_that_closes_over_a_spread_batch_is_told_how_to_take_it(folder):
    said = json.loads((folder / "0.json").read_text())
    assert "spread over several processes: pass it by inputs=(batch,)" in said["refusal"]


def test_orbax_saves_and_restores_the_state_of_many_processes(folder):
    assert all(json.loads((folder / f"{i}.json").read_text())["restored"] for i in range(PROCESSES))

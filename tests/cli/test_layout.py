"""Which axis is the input: read from the file where it says so, and asked for where it does not."""

import numpy as np
import pytest
import safetensors.numpy

import jaxprune as jp
from jaxprune.cli import main
from tests.cli.commands import BY_PATH, TORCH, prune, refused


@pytest.fixture
def torch_model(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(TORCH, path, metadata={"format": "pt"})
    return path


def test_a_file_of_pytorch_says_so_itself(torch_model, capsys):
    found = prune(torch_model, "--spec", "2:4")
    expected, _ = jp.prune(BY_PATH, jp.NM(2, 4, axis=1))
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, path)
    line = "layout    torch, by 'format': 'pt' in its metadata; --layout flax says otherwise\n"
    told = capsys.readouterr().out
    assert told.startswith(f"asked     NM(n=2, m=4, axis=1) by l1\n{line}achieved")
    assert main(["prune", str(torch_model), "--spec", "2:4", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith(line)
    prune(torch_model, "--spec", "2:4", "--layout", "torch")
    prune(torch_model)
    assert "layout" not in capsys.readouterr().out  # asked for, or of no consequence


def test_what_is_typed_wins(torch_model):
    found = prune(torch_model, "--spec", "2:4", "--layout", "flax", "--skip", "conv")
    expected, _ = jp.prune(BY_PATH, {"conv": None, "*": jp.NM(2, 4, axis=-2)})
    np.testing.assert_array_equal(found["lm_head/weight"], expected["lm_head/weight"])


@pytest.mark.parametrize(
    "typed", ["--spec 2:4", "--spec channels", "--per input", "--spec 2:4 --axis output"]
)
def test_without_a_layout_there_is_no_axis_word(typed, model, capsys):
    told = refused(capsys, "prune", model, "-o", model.with_name("o.npz"), *typed.split())
    assert "add --layout flax" in told
    assert "--layout torch" in told
    assert ("--per 0" if "--per" in typed else "--axis 0") in told


def test_gpt2_is_not_taken_for_a_model_of_linear_layers(tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    weights = {"h.0.attn.c_attn.weight": np.ones((8, 24), np.float32)}
    safetensors.numpy.save_file(weights, path, metadata={"format": "pt"})
    told = refused(capsys, "prune", path, "-o", tmp_path / "o.npz", "--spec", "2:4")
    assert "the file does not say" in told


def test_kernels_are_flax_s_and_attention_s_are_not_guessed(tmp_path, capsys):
    path = tmp_path / "model.npz"
    dense = {"a/kernel": np.arange(32, dtype=np.float32).reshape(8, 4), "a/bias": np.ones(4)}
    np.savez(path, **dense)
    assert main(["prune", str(path), "-o", str(tmp_path / "o.npz"), "--spec", "2:4"]) == 0
    assert "layout    flax, by the name of every kernel" in capsys.readouterr().out
    with np.load(tmp_path / "o.npz") as found:
        expected = jp.prune(dense["a/kernel"], jp.NM(2, 4, axis=0))[0]
        np.testing.assert_array_equal(found["a/kernel"], expected)
    np.savez(path, **dense, **{"q/kernel": np.ones((8, 2, 4), np.float32)})
    told = refused(capsys, "prune", path, "-o", tmp_path / "p.npz", "--spec", "2:4")
    assert "the file does not say" in told

"""`--with-sidecars`: the configuration and the tokenizer come along, and nothing else."""

import os
import stat

import pytest
import safetensors.numpy

from jaxprune.cli import main
from jaxprune.io import _sidecars
from tests.cli.commands import TORCH, refused

BESIDE = {
    "config.json": "{}",
    "generation_config.json": "{}",
    "tokenizer.json": '{"a": 1}',
    "tokenizer.model": "\0\1",
    "vocab.txt": "a",
    "chat_template.jinja": "{{ a }}",
}
OTHERS = {"modeling.py": "1", "pytorch_model.bin": "x", "README.md": "x", ".hidden.json": "{}"}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "repo" / "snapshots" / "1"
    made.mkdir(parents=True)
    safetensors.numpy.save_file(TORCH, made / "model.safetensors")
    for name, text in (BESIDE | OTHERS).items():
        (made / name).write_text(text)
    (made / "model.safetensors.index.json").write_text("{}")
    return made


def pruned(folder, target):
    source = folder / "model.safetensors"
    return main(["prune", str(source), "-o", str(target), "--with-sidecars"])


def test_the_configuration_and_the_tokenizer_come_along(folder, tmp_path, capsys):
    (folder / "tokenizer.json").chmod(0o600)
    out = tmp_path / "out"
    out.mkdir()
    assert pruned(folder, out / "weights.safetensors") == 0
    assert {path.name for path in out.iterdir()} == {"weights.safetensors", *BESIDE}
    assert all((out / name).read_text() == text for name, text in BESIDE.items())
    assert os.name == "nt" or stat.S_IMODE((out / "tokenizer.json").stat().st_mode) == 0o600
    assert f"copied    {', '.join(sorted(BESIDE))}" in capsys.readouterr().out


def test_nothing_is_written_over(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    (out / "vocab.txt").symlink_to("nowhere")
    assert pruned(folder, out / "weights.safetensors") == 0
    assert (out / "config.json").read_text() == "mine"
    assert os.readlink(out / "vocab.txt") == "nowhere"
    assert "kept      config.json, vocab.txt: there already" in capsys.readouterr().out


def test_shards_and_their_files_go_to_the_new_folder(folder, tmp_path):
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {' + ",".join(f'"{name}": "model.safetensors"' for name in TORCH) + "}}"
    )
    out = tmp_path / "out"
    assert main(["prune", str(folder), "-o", str(out), "--with-sidecars"]) == 0
    weights = {"model.safetensors", "model.safetensors.index.json"}
    assert {path.name for path in out.iterdir()} == {*weights, *BESIDE}


def test_the_hub_s_cache_holds_links(folder, tmp_path):
    blobs = tmp_path / "repo" / "blobs"
    blobs.mkdir()
    (folder / "config.json").rename(blobs / "abc")
    (folder / "config.json").symlink_to("../../blobs/abc")
    out = tmp_path / "out"
    out.mkdir()
    assert pruned(folder, out / "weights.safetensors") == 0
    assert (out / "config.json").read_text() == "{}"
    assert not (out / "config.json").is_symlink()


def lead_out(folder):
    (folder.parents[2] / "secret").write_text("s")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(folder.parents[2] / "secret")


def make_pipe(folder):
    if not hasattr(os, "mkfifo"):
        pytest.skip("folders of Windows hold no pipes")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def grow(folder):
    os.truncate(folder / "config.json", _sidecars._LARGEST + 1)


def crowd(folder):
    for i in range(_sidecars._MOST):
        (folder / f"{i}.json").write_text("{}")


def empty(folder):
    for name in (*BESIDE, "model.safetensors.index.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lead_out, "outside of its folder"),
        (make_pipe, "config.json is a pipe"),
        (grow, "more than any configuration"),
        (crowd, "a model has at most 100"),
        (empty, "holds no configuration"),
    ],
)
def test_what_is_no_sidecar_is_refused_before_anything_is_written(
    change, words, folder, tmp_path, capsys
):
    change(folder)
    out = tmp_path / "out"
    out.mkdir()
    source, target = folder / "model.safetensors", out / "weights.safetensors"
    assert words in refused(capsys, "prune", source, "-o", target, "--with-sidecars")
    assert not list(out.iterdir())

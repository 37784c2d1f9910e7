"""What goes wrong is told in one line."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from jaxprune.cli import main
from tests.cli.commands import TORCH, prune, refused


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--sparsity 1.5", "one number in [0, 1)"),
        ("--spec 4:2 --axis 0", "N:M needs 1 <= N <= M"),
        ("--spec lines", "expected unstructured, N:M such as 2:4"),
        ("--spec block=16", "or block=HxW such as block=16x16"),
        ("--spec 2:4 --sparsity 0.5", "--sparsity goes with specs other than N:M"),
        ("--spec rows --per leaf", "--per goes with --spec unstructured, not with rows"),
        ("--axis 0", "--axis goes with --spec N:M and --spec channels, not with unstructured"),
        ("--per width", "expected leaf, global, input, output or a number"),
        ("--spec 2:4 --axis width", "--axis width: expected input, output or a number"),
        ("--where lm_haed", "the pattern 'lm_haed' matches no leaf and no subtree. Did you mean"),
        ("--skip lm_haed", "the pattern 'lm_haed' matches no leaf and no subtree. Did you mean"),
        ("--skip *", "--skip '*' leaves nothing to prune"),
        ("--skip **", "nothing is left to prune: --skip '**' ("),
        (
            "--skip lm_head --skip lm_head.weight",
            "--skip 'lm_head/weight' changes nothing: --skip",
        ),
        ("--per global --sparsity 0.99999", "with at least one weight left in each tensor,"),
        (
            "--spec channels --axis 7 --where conv.weight",
            "and no axis 7: leave it dense with --skip",
        ),
        ("--where conv.bias --spec rows", "needs 2 dimensions"),
        ("--metric lcg --seed -1", "--seed -1: --metric lcg takes a number of 0 to 2^64 - 1"),
        ("--metric lcg --seed 99999999999999999999999", "--metric lcg takes a number"),
        ("--metric random --seed 99999999999999999999999", "expected a number of 64 bits"),
    ],
)
def test_what_cannot_be_asked_is_refused(typed, words, model, capsys):
    out = model.with_name("out.safetensors")
    assert words in refused(capsys, "prune", model, "-o", out, *typed.split())
    assert os.listdir(model.parent) == [model.name]


def test_the_output_is_asked_for(model, capsys):
    assert "prune needs -o OUT" in refused(capsys, "prune", model)


def test_a_missing_input_is_named(tmp_path, capsys):
    path = tmp_path / "none.npz"
    assert f"{path}: No such file" in refused(capsys, "prune", path, "-o", tmp_path / "o.npz")
    assert f"{path}: No such file" in refused(capsys, "report", path)
    assert f"{path}: No such file" in refused(capsys, "compare", path, path)


def test_a_folder_in_place_of_a_file_is_told(model, capsys):
    folder = model.with_name("folder.safetensors")
    folder.mkdir()
    (folder / "file").write_text("")
    assert "has no _METADATA" in refused(capsys, "prune", folder, "-o", "out.safetensors")
    assert "folder.safetensors exists" in refused(capsys, "prune", model, "-o", folder)


def test_the_input_is_never_the_output(model, capsys):
    link, hard = model.with_name("link.safetensors"), model.with_name("hard.safetensors")
    link.symlink_to(model)
    hard.hardlink_to(model)
    before = model.read_bytes()
    for out in (model, link, hard, model.parent / "." / model.name):
        told = refused(capsys, "prune", model, "-o", out)
        assert "belongs to the input" in told
    out = model.with_name("out.safetensors")
    assert "are one file" in refused(capsys, "prune", model, "-o", out, "--mask-out", out)
    refused(capsys, "prune", model, "-o", out, "--mask-out", hard)
    refused(capsys, "prune", model, "-o", out, "--mask-out", model)
    assert model.read_bytes() == before
    assert link.is_symlink()
    assert not out.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders of Windows have no modes")
def test_a_folder_that_cannot_be_written_is_told(model, capsys):
    """For root no folder is read-only but those of the kernel."""
    told = refused(capsys, "prune", model, "-o", model.parent / "none" / "out.safetensors")
    assert "none is no folder; make it" in told
    if os.geteuid() == 0:
        folder = Path("/proc")
    else:
        folder = model.parent / "locked"
        folder.mkdir(mode=0o500)
    told = refused(capsys, "prune", model, "-o", folder / "out.safetensors")
    assert f"{folder / 'out.safetensors'}: " in told


def test_a_page_that_cannot_be_written_is_named(model, capsys):
    resource = pytest.importorskip("resource", reason="Windows does not limit the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = model.with_name("page.html")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        told = refused(capsys, "report", model, "--html", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told == f"jaxprune: {out}: File too large\n"


def test_an_error_is_one_line_whatever_the_path(tmp_path, capsys):
    path = tmp_path / "a\nb\x1b[2J.npz"
    told = refused(capsys, "report", path)
    assert told == f"jaxprune: {tmp_path}/a\\nb\\x1b[2J.npz: No such file or directory\n"
    path.write_bytes(b"no zip")
    assert f"{tmp_path}/a\\nb\\x1b[2J.npz is no whole npz" in refused(capsys, "report", path)


def test_the_lines_of_several_problems_stay(model, capsys):
    assert main(["prune", str(model), "--dry-run", "--skip", "a", "--skip", "b"]) == 2
    assert capsys.readouterr().err.startswith("jaxprune: 2 problems:\n  the pattern 'a' ")


def test_an_error_of_the_system_without_words_is_told(monkeypatch, model, capsys):
    def fails(*_):
        raise OSError("many things")

    monkeypatch.setattr(os, "fsync", fails)
    out = model.with_name("out.safetensors")
    told = refused(capsys, "prune", model, "-o", out)
    assert told == f"jaxprune: {out}: many things\n"


def test_a_file_that_is_cut_is_told(model, capsys):
    model.write_bytes(model.read_bytes()[:-1])
    out = model.with_name("out.safetensors")
    assert "is no whole safetensors file" in refused(capsys, "prune", model, "-o", out)


def test_what_argparse_refuses_has_the_same_status(capsys):
    for arguments in ([], ["prune"], ["prune", "in", "--layout", "onnx"], ["erase"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "usage: jaxprune" in capsys.readouterr().err


def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "_METADATA").write_text('{"tree_metadata": {}}')
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    told = refused(capsys, "report", tmp_path)
    assert "pip install orbax-checkpoint" in told


PYTHON = re.compile(
    r"where=|\bjp\.|vmap|re\.compile|[A-Z]\w+\(\.\.\.|NM\(|Block\(|axis=|sparsity=|: None"
)


@pytest.mark.parametrize(
    "typed",
    [
        "--sparsity 1.5",
        "--sparsity nan",
        "--spec 4:2 --axis 0",
        "--spec 0:4 --axis 0",
        "--spec 2:5 --axis 0",
        "--spec 2:4 --axis 7",
        "--spec channels --axis 3",
        "--per 7",
        "--spec block=0x4",
        "--spec block=16x16",
        "--spec rows",
        "--spec columns",
        "--spec rows --where conv.bias",
        "--where conv.bias --spec block=2x2",
        "--where conv.bias --spec 3:4 --axis 1",
        "--where lm_haed",
        "--where .*head",
        "--skip .*head",
        "--where steps",
        "--where empty",
        "--skip ** --skip conv",
        "--skip ?*",
        "--where lm_head --skip lm_head*",
    ],
)
def test_remedies_are_options(typed, model, tmp_path, capsys):
    more = {"steps": np.arange(3), "empty": np.zeros((0, 4), np.float32)}
    safetensors.numpy.save_file(TORCH | more, model)
    assert main(["prune", str(model), "-o", str(tmp_path / "o.npz"), *typed.split()]) == 2
    told = capsys.readouterr().err
    assert not PYTHON.search(told), told


def test_tables_speak_options_too(model, capsys):
    main(["prune", str(model), "--dry-run", "--where", "conv.*"])
    main(["report", str(model), "--where", "conv.*"])
    told = capsys.readouterr().out
    assert "left out by --where" in told
    assert "where=" not in told


@pytest.mark.parametrize("metric", ["wanda", "Wanda", "sparsegpt", "taylor", "fisher", "movement"])
def test_methods_that_need_data_have_a_page(metric, model, capsys):
    told = refused(capsys, "prune", model, "-o", "o.npz", "--metric", metric)
    assert "needs the model and data" in told
    assert "docs/files.md" in told
    page = Path(__file__).parents[2] / "docs/files.md"
    assert "## Methods that need data" in page.read_text("utf-8")


def test_what_removes_nothing_says_so(model, capsys):
    for typed in (["--sparsity", "0"], ["--spec", "4:4", "--axis", "1"]):
        prune(model, *typed)
        assert "note      this removes nothing" in capsys.readouterr().out


def test_a_path_is_not_empty(model, capsys):
    for arguments in (
        ["prune", model, "-o", ""],
        ["prune", "", "-o", "o.npz"],
        ["prune", model, "-o", "o.npz", "--mask-out", ""],
        ["report", ""],
        ["report", model, "--html", ""],
        ["compare", model, "a\0b"],
        ["prune", model, "-o", "o.npz", "--skip", ""],
        ["report", model, "--where", ""],
    ):
        with pytest.raises(SystemExit, match="2"):
            main([str(argument) for argument in arguments])
        assert "expected a path" in capsys.readouterr().err
    assert os.listdir(model.parent) == [model.name]


def test_a_defect_of_the_program_is_one_line_too(model, monkeypatch, capsys):
    def fails(*_, **__):
        raise KeyError("a\nb")

    monkeypatch.setattr("jaxprune.cli._commands.report_checkpoint", fails)
    told = refused(capsys, "report", model)
    assert "unexpected KeyError: 'a\\nb'. This is a bug in jaxprune" in told
    monkeypatch.setenv("JAXPRUNE_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main(["report", str(model)])

"""The command line: what is typed, what is printed, and what goes wrong in one line."""

import csv
import io
import json
import os
import pty
import resource
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import jaxprune as jp
from jaxprune.cli import main

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
TORCH = {
    "model.layers.0.mlp.up_proj.weight": RNG.normal(size=(8, 16)).astype(np.float32),
    "model.layers.0.norm.weight": np.ones(8, np.float32),
    "model.embed_tokens.weight": RNG.normal(size=(6, 8)).astype(np.float32),
    "lm_head.weight": RNG.normal(size=(4, 8)).astype(np.float32),
    "conv.weight": RNG.normal(size=(4, 8, 3, 3)).astype(np.float32),
    "conv.bias": RNG.normal(size=4).astype(np.float32),
}
BY_PATH = {name.replace(".", "/"): array for name, array in TORCH.items()}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(TORCH, path)
    return path


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


# --- prune --------------------------------------------------------------------------------------

KERNELS = {"where": ["model/layers/*up_proj/weight", "lm_head"]}
SPECS = {
    "": (0.5, {}),
    "--sparsity 0.7": (0.7, {}),
    "--sparsity 0.7 --per global": (jp.Unstructured(0.7, per="global"), {}),
    "--sparsity 0.7 --per output --layout torch": (jp.Unstructured(0.7, per=0), {}),
    "--per input --layout torch": (jp.Unstructured(0.5, per=1), {}),
    "--per output --layout flax": (jp.Unstructured(0.5, per=-1), {}),
    "--per -2": (jp.Unstructured(0.5, per=-2), {}),
    "--metric l2": (0.5, {"metric": jp.L2()}),
    "--metric lcg --seed 7": (0.5, {"metric": jp.LCG(7)}),
    "--spec 2:4 --layout torch": (jp.NM(2, 4, axis=1), {}),
    "--spec 1:2 --axis 0": (jp.NM(1, 2, axis=0), {}),
    "--spec channels --layout torch": (jp.Channels(0.5, axis=0), {}),
    "--spec channels --axis input --layout flax": (jp.Channels(0.5, axis=-2), {}),
    "--spec rows --where model.layers.*up_proj.weight --where lm_head": (jp.Rows(0.5), KERNELS),
    "--spec columns --where model/layers/*up_proj/weight --where lm_head": (
        jp.Columns(0.5),
        KERNELS,
    ),
    "--spec block=2x4 --skip conv": ({"conv": None, "*": jp.Block(0.5, (2, 4))}, {}),
    "--skip conv.* --skip */up_proj --sparsity 0.25": (
        {"conv/*": None, "*/up_proj": None, "*": 0.25},
        {},
    ),
    "--where *": (0.5, {"where": "*"}),
}


@pytest.mark.parametrize("typed", SPECS)
def test_what_is_typed_is_what_the_library_is_asked(typed, model, capsys):
    spec, choices = SPECS[typed]
    found = prune(model, *typed.split())
    expected, _ = jp.prune(BY_PATH, spec, **choices)
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, path)
    assert capsys.readouterr().err == ""


def test_random_takes_the_seed(model):
    import jax

    found = prune(model, "--metric", "random", "--seed", "3")
    expected, _ = jp.prune(BY_PATH, 0.5, metric=jp.Random(jax.random.key(3)))
    np.testing.assert_array_equal(found["conv/weight"], expected["conv/weight"])


def test_the_summary_says_what_was_asked_what_was_achieved_and_where(model, capsys):
    out, masks = model.with_name("out.npz"), model.with_name("masks.safetensors")
    main(["prune", str(model), "-o", str(out), "--mask-out", str(masks), "--sparsity", "0.9"])
    assert capsys.readouterr().out == (
        "asked     Unstructured(sparsity=0.9, per='leaf', min_nonzero=1) by l1\n"
        "achieved  402 of 448 weights removed (89.73%), in 3 of 6 tensors; 79.13% of all 508 "
        "parameters are zero\n"
        f"written   {out}\n"
        f"masks     {masks}\n"
    )
    _, expected = jp.prune(BY_PATH, 0.9)
    found = safetensors.numpy.load_file(masks)
    assert {k.replace(".", "/") for k in found} == {k for k, m in expected.items() if m is not None}
    np.testing.assert_array_equal(found["lm_head.weight"], expected["lm_head/weight"])


def test_a_dry_run_prints_the_plan_and_writes_nothing(model, capsys):
    assert main(["prune", str(model), "--dry-run", "--skip", "conv"]) == 0
    assert capsys.readouterr().out == f"{jp.plan(BY_PATH, {'conv': None, '*': 0.5})}\n"
    assert os.listdir(model.parent) == [model.name]


def test_the_report_is_that_of_the_result(model, capsys):
    prune(model, "--report", "--spec", "2:4", "--layout", "torch")
    expected = jp.report(*jp.prune(BY_PATH, jp.NM(2, 4, axis=1)))
    assert capsys.readouterr().out.startswith(f"{expected}\nasked     NM(n=2, m=4, axis=1)")


# --- report and compare -------------------------------------------------------------------------


def test_report_is_the_library_s_table(model, capsys):
    assert main(["report", str(model)]) == 0
    assert capsys.readouterr().out == f"{jp.report(BY_PATH)}\n"
    assert main(["report", str(model), "--where", "conv.*"]) == 0
    expected = str(jp.report(BY_PATH, where="conv/*")).replace("by where=", "by --where")
    assert capsys.readouterr().out == f"{expected}\n"


def test_report_as_json_and_csv(model, capsys):
    main(["report", str(model), "--json"])
    expected = jp.report(BY_PATH).to_dict()
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(expected))
    main(["report", str(model), "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["path"] for row in rows] == sorted(BY_PATH)
    assert rows[2]["shape"] == "4x8"
    assert rows[2]["in_scope"] == "True"


def test_report_as_a_page(model, capsys):
    out = model.with_name("page.html")
    assert main(["report", str(model), "--html", str(out)]) == 0
    assert capsys.readouterr().out == f"written   {out}\n"
    page = out.read_text("utf-8")
    assert "in 3 leaves" in page
    assert "lm_head" in page
    assert "belongs to the input" in refused(capsys, "report", model, "--html", model)


def test_compare_prints_a_table_or_json(model, capsys):
    prune(model)
    out = model.with_name("out.safetensors")
    capsys.readouterr()
    assert main(["compare", str(model), str(out)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == [
        *("tensor", "weights", "both", "only", "A", "only", "B", "IoU", "drift", "furthest"),
    ]
    same = ["model/embed_tokens/weight", "48", "48", "0", "0", "1.0000", "0", "0"]
    assert table[5].split() == same
    assert main(["compare", str(model), str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    head = next(row for row in found["rows"] if row["path"] == "lm_head/weight")
    assert (head["both"], head["only_a"], head["iou"]) == (16, 16, 0.5)


def test_json_has_no_numbers_that_json_lacks(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", nan=np.array([[np.nan]]), far=np.array([[1.0]]))
    np.savez(tmp_path / "b.npz", nan=np.array([[1.0]]), far=np.array([[np.inf]]))
    assert main(["compare", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [row["furthest"] for row in (*found["rows"], found["all"])] == [None] * 3


def test_a_slash_at_the_end_means_a_folder(model, capsys):
    out = f"{model.with_name('out.dir')}/"
    assert main(["prune", str(model), "-o", out]) == 0
    assert f"written   {out}" in capsys.readouterr().out
    assert Path(out, "_METADATA").is_file()


# --- what goes wrong ----------------------------------------------------------------------------


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
        ("--skip **", "Write it before the rules that take them"),
        ("--where conv.bias --spec rows", "needs 2 dimensions"),
        ("--metric lcg --seed -1", "seed"),
        ("--metric lcg --seed 99999999999999999999999", "seed"),
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
    assert "pip install 'jaxprune[cli]'" in told


# --- processes ----------------------------------------------------------------------------------


def run(*arguments, variables=None, **options):
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (variables or {}),
        check=False,
        **options,
    )


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

"""What is typed is what the library is asked, and what is printed."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import jaxprune as jp
from jaxprune.cli import main
from tests.cli.commands import BY_PATH, prune, refused

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

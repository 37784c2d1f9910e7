"""Comparisons of files."""

import json

import numpy as np
import pytest

from jaxprune import io
from jaxprune.io._checkpoint import numpy_dtype
from tests.io.files import (
    normal,
    write_safetensors,
)


def test_a_comparison_counts_overlap_and_drift(tmp_path):
    a = {"w": np.array([[1.0, 2, 0, 0]]), "i": np.arange(3), "x": normal(2), "s": normal(2, 3)}
    b = {"w": np.array([[1.0, 3, 5, 0]]), "i": np.arange(1, 4), "y": normal(2), "s": normal(3, 2)}
    np.savez(tmp_path / "a.npz", **a)
    np.savez(tmp_path / "b.npz", **b)
    with (
        io.open_checkpoint(tmp_path / "a.npz") as one,
        io.open_checkpoint(tmp_path / "b.npz") as two,
    ):
        found = io.compare_checkpoints(one, two)
    assert found.rows == {"w": io.Overlap(4, 2, 0, 1, 1.0, 5.0, 1.0)}
    assert found.rows["w"].iou == 2 / 3
    assert found.rows["w"].drift == pytest.approx(np.sqrt(1 / 5))
    assert (found.only_a, found.only_b, found.others_changed) == (["x"], ["y"], ["i"])
    assert found.changed == {"s": ("float32[2, 3]", "float32[3, 2]")}
    assert "changed: s: float32[2, 3] in A, float32[3, 2] in B" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["all"]["both"] == 2


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 0x7C01), ("bfloat16", 0x7F81)])
def test_signalling_nans_are_met_in_silence(dtype, bits, tmp_path):
    """Warnings are errors here."""
    values = np.array([[bits, 0]], np.uint16).view(numpy_dtype(dtype))
    write_safetensors(tmp_path / "in.safetensors", {"w": values})
    with io.open_checkpoint(tmp_path / "in.safetensors") as source:
        assert np.isnan(io.compare_checkpoints(source, source).all.furthest)
    assert io.histogram(values) is None


def test_a_comparison_shows_what_is_no_number(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.array([np.nan, np.inf, 1.0]), z=np.zeros(2))
    np.savez(tmp_path / "b.npz", w=np.array([2.0, np.inf, 1.0]), z=np.zeros(2))
    with (
        io.open_checkpoint(tmp_path / "a.npz") as one,
        io.open_checkpoint(tmp_path / "b.npz") as two,
    ):
        found = io.compare_checkpoints(one, two)
    assert np.isnan(found.rows["w"].furthest)
    assert np.isnan(found.all.furthest)
    assert (found.rows["z"].iou, found.rows["z"].drift) == (1.0, 0.0)

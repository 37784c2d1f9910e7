"""Reports of files."""

import ml_dtypes
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import io
from tests.io.files import by_path, x64


def test_a_report_is_the_library_s(checkpoint):
    path, tensors = checkpoint
    with io.open_checkpoint(path) as source:
        found = io.report_checkpoint(source)
    with x64():
        assert str(found) == str(jp.report(by_path(tensors)))


def test_a_histogram_counts_every_finite_value_but_zeros():
    values = np.array([-3.0, 0.0, -0.0, 1.0, 1.0, 5.0, np.nan, np.inf], np.float32)
    counts, lowest, highest = io.histogram(values)
    assert (sum(counts), lowest, highest) == (4, -3.0, 5.0)
    assert (counts[0], counts[-1]) == (1, 1)
    assert io.histogram(np.array([np.nan, 0.0])) is None
    assert sum(io.histogram(np.array([-1.7e308, 1.7e308]))[0]) == 2
    assert sum(io.histogram(np.ones(3, ml_dtypes.bfloat16))[0]) == 3


def test_a_report_skips_as_pruning_does(tmp_path):
    np.savez(tmp_path / "in.npz", **{"a.weight": np.eye(4), "b.weight": np.ones((4, 4))})
    with io.open_checkpoint(tmp_path / "in.npz") as source:
        found = io.report_checkpoint(source, skip=["b"])
        assert [(row.in_scope, row.reason) for row in found.rows] == [
            (True, ""),
            (False, "skipped by 'b'"),
        ]
        assert (found.pruned.total, found.all.total) == (16, 32)
        with pytest.raises(jp.NoMatch, match="the pattern 'c' matches no leaf"):
            io.report_checkpoint(source, skip=["c"])

"""Reports of files."""

import jax
import ml_dtypes
import numpy as np

import jaxprune as jp
from jaxprune import io
from tests.io.files import by_path


def test_a_report_is_the_library_s(checkpoint):
    path, tensors = checkpoint
    with io.open_checkpoint(path) as source:
        found = io.report_checkpoint(source)
    with jax.enable_x64(True):
        assert str(found) == str(jp.report(by_path(tensors)))


def test_a_histogram_counts_every_finite_value():
    values = np.array([-3.0, 0.0, 1.0, 1.0, 5.0, np.nan, np.inf], np.float32)
    counts, lowest, highest = io.histogram(values)
    assert (sum(counts), lowest, highest) == (5, -3.0, 5.0)
    assert (counts[0], counts[-1]) == (1, 1)
    assert io.histogram(np.array([np.nan])) is None
    assert sum(io.histogram(np.array([-1.7e308, 1.7e308]))[0]) == 2
    assert sum(io.histogram(np.zeros(3, ml_dtypes.bfloat16))[0]) == 3

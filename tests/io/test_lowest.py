"""The host's kernel beside the library's: the same keys, cuts and ties."""

import jax
import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import jaxprune as jp
from jaxprune._kernels.floats import keys as library_keys
from jaxprune._kernels.host import Ordered, find_cut, keys, magnitudes, survivors
from jaxprune._prune import make_mask
from jaxprune.io._checkpoint import numpy_dtype
from tests.io.files import by_path


@st.composite
def pools(draw):
    """A few leaves with ties, zeros of both signs, NaNs, infinities and subnormals."""
    dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    kind = numpy_dtype(dtype)
    tiny = kind.type(ml_dtypes.finfo(kind).smallest_subnormal)
    values = [0.0, -0.0, 1.0, -1.0, 1.0, 2.0, np.nan, -np.nan, np.inf, -np.inf, tiny, 2 * tiny]
    sizes = (1, 7, 12, 12)  # always these: each other one would be compiled anew
    draws = [draw(st.lists(st.sampled_from(values), min_size=n, max_size=n)) for n in sizes]
    names = draw(st.permutations(["0.w", "1.w", "2.w", "3.w"]))
    return {
        name: np.array(each, kind).reshape(1, -1) for name, each in zip(names, draws, strict=True)
    }


@given(pools(), st.floats(0, 0.999), st.integers(0, 2))
def test_a_global_budget_is_the_library_s_to_the_last_tie(tensors, sparsity, held):
    spec = jp.Unstructured(
        sparsity, per="global", min_nonzero=min(held, *map(np.size, tensors.values()))
    )
    library = make_mask(jp.importance(by_path(tensors), jp.L1()), spec)
    sizes = [array.size for array in tensors.values()]
    count = int(np.floor(np.float32(sparsity) * np.float32(sum(sizes))))
    count = min(count, sum(sizes) - spec.min_nonzero * len(sizes))
    shares = dict.fromkeys(tensors, 0)
    width = 8 * next(iter(tensors.values())).itemsize

    def pieces(name):
        return Ordered(tensors[name].reshape(-1), magnitudes).pieces()

    if count:
        names, held = list(tensors), spec.min_nonzero
        cut = find_cut(names, pieces, count, held=held, width=width)
        shares = {name: cut.take(name, pieces(name)) for name in sorted(names)}
    for name in tensors:
        ordered = Ordered(tensors[name].reshape(-1), magnitudes)
        kept = survivors(ordered, shares[name], width=width).reshape(tensors[name].shape)
        np.testing.assert_array_equal(kept, library[name.replace(".", "/")], name)


@given(pools())
def test_keys_are_the_library_s(tensors):
    for array in tensors.values():
        found = keys(array).reshape(-1)
        signed = np.asarray(library_keys(jax.numpy.asarray(array))).reshape(-1)
        lowest = np.iinfo(signed.dtype).min
        np.testing.assert_array_equal(found.astype(object), signed.astype(object) - int(lowest))

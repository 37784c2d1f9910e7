"""What every mask must be, stated slowly: NumPy, float64 and Python integers, no JAX.

Nothing here counts, bisects or looks at bits. Scores are sorted with their positions, and the
lowest go, one by one. The last part draws scores that are hard to rank.
"""

import itertools
import math

import numpy as np

import jaxprune as jp

# --- order and counts ---------------------------------------------------------------------------


def exact(scores):
    """Scores as float64, in which every float of 64 bits or fewer is exact."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return np.asarray(scores).astype(np.float64)


def lowest_first(scores):
    """Row-major indices, lowest score first: NaN above all, -0.0 as 0.0, lower index first."""
    flat = exact(scores).ravel()
    broken = np.isnan(flat)
    return np.lexsort((np.where(broken, 0.0, flat), broken))  # stable; the last key comes first


def ranks(scores):
    """For each score, row-major, how many distinct scores are lower."""
    flat = exact(scores).ravel()
    order, rank = lowest_first(flat), np.zeros(flat.size, np.int64)
    for before, after in itertools.pairwise(order):
        same = flat[before] == flat[after] or (np.isnan(flat[before]) and np.isnan(flat[after]))
        rank[after] = rank[before] + (not same)
    return rank


def pruned_count(sparsity, size, held=0):
    """floor(float32(s) * float32(n)), less what would touch the `held` ones."""
    wanted = math.floor(np.float32(sparsity) * np.float32(size))
    return max(0, min(wanted, size - held))


def survivors(scores, count):
    """Everything but the `count` lowest."""
    kept = np.ones(np.size(scores), bool)
    kept[lowest_first(scores)[:count]] = False
    return kept.reshape(np.shape(scores))


def survivors_by_group(scores, counts, axes):
    """The same for every index along the other axes; `counts` has length 1 along `axes`."""
    kept = np.ones(np.shape(scores), bool)
    for group in np.ndindex(np.shape(counts)):
        place = tuple(slice(None) if axis in axes else i for axis, i in enumerate(group))
        kept[place] = survivors(scores[place], int(counts[group]))
    return kept


def shares(scores, budget, most):
    """How many weights each array loses: the lowest `budget` go, of no array more than `most`."""
    owner = np.concatenate([np.full(np.size(s), i) for i, s in enumerate(scores)])
    owner = owner[lowest_first(np.concatenate([exact(s).ravel() for s in scores]))]
    may_go = np.zeros(owner.size, bool)  # lowest first
    for i, limit in enumerate(most):
        may_go[np.flatnonzero(owner == i)[:limit]] = True
    return np.bincount(owner[may_go][:budget], minlength=len(scores)).tolist()


# --- specs --------------------------------------------------------------------------------------


def masks(spec, scores):
    """The masks of the leaves that share a rule."""
    match spec:
        case jp.Unstructured(per="global"):
            total = sum(np.size(s) for s in scores)
            budget = pruned_count(spec.sparsity, total, spec.min_nonzero * len(scores))
            most = [np.size(s) - spec.min_nonzero for s in scores]
            given = shares(scores, budget, most)
            return [survivors(s, k) for s, k in zip(scores, given, strict=True)]
        case jp.Unstructured(per="leaf"):
            counts = [pruned_count(spec.sparsity, np.size(s), spec.min_nonzero) for s in scores]
            return [survivors(s, k) for s, k in zip(scores, counts, strict=True)]
        case jp.Unstructured():
            return [_per_axis(spec, s) for s in scores]
        case jp.NM():
            return [_n_of_m(spec, s) for s in scores]
    return [_whole_units(spec, s) for s in scores]


def mask(spec, scores):
    """The mask of one leaf."""
    return masks(spec, [scores])[0]


def _axis(axis, ndim):
    return {"input": -2, "output": -1}.get(axis, axis) % ndim


def _per_axis(spec, scores):
    kept, across = np.ones(np.shape(scores), bool), _axis(spec.per, np.ndim(scores))
    for i in range(np.shape(scores)[across]):
        place = (slice(None),) * across + (i,)
        size = np.size(scores[place])
        kept[place] = survivors(scores[place], pruned_count(spec.sparsity, size, spec.min_nonzero))
    return kept


def _n_of_m(spec, scores):
    values, shape = exact(scores), np.shape(scores)
    along = 0 if spec.axis is None else _axis(spec.axis, len(shape))
    lines = values.reshape(-1) if spec.axis is None else values
    kept = np.zeros(lines.shape, bool)
    for place in np.ndindex(*lines.shape[:along], *lines.shape[along + 1 :]):
        before, after = place[:along], place[along:]
        for start in range(0, lines.shape[along], spec.m):
            window = range(start, start + spec.m)
            at = [(*before, i, *after) for i in window]
            # Highest first, NaN above all; the sort leaves equals as they were, lower index first.
            best = sorted(at, key=lambda i: (0, 0) if np.isnan(lines[i]) else (1, -lines[i]))
            for i in best[: spec.n]:
                kept[i] = True
    return kept.reshape(shape)


def _whole_units(spec, scores):
    unit = unit_of(spec, np.shape(scores))
    grouped = exact(scores).ravel()[np.argsort(unit, axis=None, kind="stable")]
    units = grouped.reshape(unit.max() + 1, -1)  # a unit a row: all are of one size
    totals = np.array([_reduced(each, spec.reduce) for each in units])
    held = math.ceil(spec.min_nonzero / units.shape[1])
    return survivors(totals, pruned_count(spec.sparsity, len(totals), held))[unit]


def unit_of(spec, shape):
    """For every weight the number of the unit it belongs to."""
    index = np.indices(shape)
    match spec:
        case jp.Rows():
            return index[0]
        case jp.Columns():
            return index[1]
        case jp.Channels():
            return index[_axis(spec.axis, len(shape))]
    (high, wide), (rows, columns) = spec.shape, shape[-2:]
    number = np.zeros(shape, int)
    for axis, length in enumerate(shape[:-2]):
        number = number * length + index[axis]
    number = number * (rows // high) + index[-2] // high
    return number * (columns // wide) + index[-1] // wide


def _reduced(values, reduce):
    if np.isnan(values).any():
        return math.nan
    if reduce == "max":
        return max(values)
    if reduce == "l2":
        return math.sqrt(math.fsum(v * v for v in values))
    total = math.fsum(values)
    return total / len(values) if reduce == "mean" else total


# --- scores that are hard to rank ---------------------------------------------------------------


def hard_scores(kind, seed, shape, dtype):
    """Scores of one of the `KINDS`."""
    dtype = np.dtype(dtype)
    flat = KINDS[kind](np.random.default_rng(seed), math.prod(shape), dtype)
    return np.asarray(flat).astype(dtype, copy=False).reshape(shape)


def _normal(rng, size, dtype):
    del dtype
    return rng.normal(size=size).astype(np.float32)


def _subnormal(rng, size, dtype):
    """Of both signs, next to zero or to the smallest normal numbers."""
    least = rng.choice([0, 2 ** _MANTISSA[dtype.name] - 20])
    magnitudes = (least + rng.integers(0, 40, size)).astype(_bits(dtype))
    return (magnitudes | _signs(rng, size, dtype)).view(dtype)


def _broken(rng, size, dtype):
    """NaN of both signs among numbers."""
    nan = np.array(np.nan, dtype).view(_bits(dtype)) | _signs(rng, size, dtype)
    numbers = _normal(rng, size, dtype).astype(dtype).view(_bits(dtype))
    return np.where(rng.random(size) < 0.3, nan, numbers).view(dtype)


def _any_bits(rng, size, dtype):
    """All exponents alike; some are NaN of odd payloads."""
    most = np.iinfo(_bits(dtype)).max
    return rng.integers(0, most, size, _bits(dtype), endpoint=True).view(dtype)


def _neighbours(rng, size, dtype):
    """The next few floats above a number, perhaps of both signs."""
    least = np.array(rng.choice([1.0, 0.1, 3e-5, 6e4]), dtype).view(_bits(dtype))
    magnitudes = least + rng.integers(0, 6, size).astype(_bits(dtype))
    if rng.random() < 0.5:
        magnitudes |= _signs(rng, size, dtype)
    return magnitudes.view(dtype)


def _striped(rng, size, dtype):
    """What a strided sample sees is not what there is."""
    period = 2 ** rng.integers(1, 6)
    return _normal(rng, size, dtype) + 100 * (np.arange(size) % period == 0)


def _half(rng, size, this, other):
    return np.where(rng.random(size) < 0.5, this, other)


def _bits(dtype):
    return np.dtype(f"uint{8 * dtype.itemsize}")


def _signs(rng, size, dtype):
    bits = _bits(dtype).type
    return rng.integers(0, 2, size).astype(bits) << bits(8 * dtype.itemsize - 1)


_MANTISSA = {"float64": 52, "float32": 23, "bfloat16": 7, "float16": 10}  # bits

KINDS = {
    "normal": _normal,
    "ties": lambda rng, size, dtype: rng.integers(-2, 3, size),
    "constant": lambda rng, size, dtype: np.full(
        size, rng.choice([-1.5, -0.0, 0.0, 3.0, np.inf, np.nan])
    ),
    "half zeros": lambda rng, size, dtype: _half(rng, size, 0, abs(_normal(rng, size, dtype))),
    "signed zeros": lambda rng, size, dtype: rng.choice([-0.0, 0.0, -0.0, 0.0, 1, -1], size),
    "subnormal": _subnormal,
    "infinite": lambda rng, size, dtype: _half(
        rng, size, rng.choice([-np.inf, np.inf], size), _normal(rng, size, dtype)
    ),
    "broken": _broken,
    "any bits": _any_bits,
    "neighbours": _neighbours,
    "striped": _striped,
    "rising": lambda rng, size, dtype: np.arange(size) % 2048,
    "falling": lambda rng, size, dtype: -(np.arange(size) % 2048),
}

"""Pictures: scores, masks, reports, schedules and sensitivities. They need matplotlib, an extra.

Each function draws on the axes it is given, or on new ones, and returns them: save a picture with
`ax.figure.savefig("name.png")`.
"""

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune._errors import NoMatch, PruningError, StructureMismatch, raise_problems
from jaxprune._prune import mask_problem
from jaxprune._report import SparsityReport
from jaxprune._sensitivity import Sensitivity
from jaxprune._specs.checks import check_sparsity
from jaxprune._text import shown
from jaxprune._tree import aligned, concrete_leaves, is_array, is_prunable
from jaxprune.training._schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["mask", "schedule", "scores", "sensitivity", "sparsity"]

# Okabe and Ito's colours, which people of every colour vision can tell apart.
_KEPT, _PRUNED, _LINE = "#0072B2", "#E69F00", "#333333"
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vP"  # so that colours are not needed to tell series apart
_OTHERS = "#BBBBBB"

_PIXELS = 512  # of a mask along an axis,
_TILES = 64  # of it that are set apart by lines,
_DOTS = 60  # and on a schedule, at the most


def scores(scores: Any, mask: Any = None, *, bins: int = 80, ax: "Axes | None" = None) -> "Axes":
    """Draws a histogram of scores; with a mask, of those kept and those pruned.

    Where one number parts the two, as in one leaf or under a global budget, it is drawn as the
    threshold.

    Args:
        scores: A tree of scores, or one leaf.
        mask: Their mask, as `make_mask` gives it; leaves without one are not drawn.
        bins: How many bars.
        ax: The axes to draw on; new ones if None.

    Returns:
        The axes.

    Raises:
        NoMatch: There are no scores, or no finite ones.
        PruningError: The scores are traced, or the mask does not fit.

    Examples:
        >>> import jax, jaxprune as jp
        >>> scores = jp.importance(jax.random.normal(jax.random.key(0), (64, 64)), jp.L1())
        >>> ax = jp.plot.scores(scores, jp.make_mask(scores, 0.5))
        >>> ax.get_legend_handles_labels()[1]
        ['threshold: 0.6726', 'pruned: 2,048', 'kept: 2,048']
    """
    kept, pruned = _parted(scores, mask)
    finite = [part[np.isfinite(part)] for part in (kept, pruned)]
    known = [part for part in finite if part.size]
    if not known:
        raise NoMatch(f"there are no finite scores in {shown(scores)}: pass jp.importance's.")
    drawn = _axes(ax)
    ends = [end(part) for part in known for end in (np.min, np.max)]
    edges = np.histogram_bin_edges(np.array(ends, float), bins)
    names = [f"scores: {kept.size:,}"] if mask is None else [f"kept: {kept.size:,}"]
    names.append(f"pruned: {pruned.size:,}")
    below = np.zeros(bins, int)
    # The pruned stand below, on the axis: they are what one came to see.
    for part, name, colour in reversed([*zip(finite, names, (_KEPT, _PRUNED), strict=True)]):
        if part.size:
            counts = np.histogram(part, edges)[0]
            widths = np.diff(edges)
            drawn.bar(edges[:-1], counts, widths, below, align="edge", color=colour, label=name)
            below = below + counts
    if len(known) == 2 and finite[1].max() <= finite[0].min():
        at = float(finite[0].min())
        drawn.axvline(at, color=_LINE, linestyle="--", label=f"threshold: {at:.4g}")
    left_out = kept.size + pruned.size - sum(part.size for part in known)
    note = f" ({left_out:,} that are not finite are left out)" if left_out else ""
    drawn.set(xlabel="score", ylabel="weights", title=f"Scores{note}")
    drawn.yaxis.set_major_formatter("{x:,.0f}")
    drawn.legend(frameon=False)
    return drawn


def sparsity(report: SparsityReport, *, ax: "Axes | None" = None) -> "Axes":
    """Draws the sparsity of every leaf in scope as a bar.

    Args:
        report: What `jp.report` returned.
        ax: The axes to draw on; new ones, as high as the leaves need, if None.

    Returns:
        The axes.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> ax = jp.plot.sparsity(jp.report({"kernel": jnp.eye(4), "bias": jnp.ones(4)}))
        >>> ax.get_title()
        '75.00% of the pruned leaves is zero, 60.00% of all parameters'
    """
    if not isinstance(report, SparsityReport):
        raise PruningError(f"expected a report, got {shown(report)}: write jp.report(params).")
    rows = [row for row in report.rows if row.in_scope and row.count]
    drawn = _axes(ax, height=max(2.0, 0.28 * len(rows) + 1.2))
    places = range(len(rows))
    sparsities = [row.count.sparsity for row in rows if row.count]
    bars = drawn.barh(places, sparsities, color=_KEPT, height=0.7)
    drawn.bar_label(bars, [f"{value:.2%}" for value in sparsities], padding=3, fontsize="small")
    drawn.set_yticks(places, [row.path or "(array)" for row in rows])
    drawn.set_ylim(len(rows) - 0.4, -0.6)
    drawn.axvline(report.pruned.sparsity, color=_LINE, linestyle="--", linewidth=1)
    drawn.set(
        xlim=(0, 1.12),
        xlabel="sparsity",
    )
    drawn.set_title(
        f"{report.pruned.sparsity:.2%} of the pruned leaves is zero, "
        f"{report.all.sparsity:.2%} of all parameters",
        fontsize="medium",
        wrap=True,
    )
    return drawn


def mask(kept: Any, *, ax: "Axes | None" = None) -> "Axes":
    """Draws the mask of one leaf as an image: kept weights blue, pruned ones white.

    The last two axes go down and across. Any others are folded into them, the innermost across if
    there are two: each input and output of a convolution becomes a tile as large as its window. A
    large mask is shrunk, and then a pixel's shade is the part of its weights that is kept.

    Args:
        kept: One leaf of a mask: bool, True where a weight is kept.
        ax: The axes to draw on; new ones if None.

    Returns:
        The axes.

    Raises:
        StructureMismatch: It is no bool array, or it is empty.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> ax = jp.plot.mask(jp.make_mask(jnp.arange(32.0).reshape(4, 8), jp.NM(2, 4)))
        >>> ax.get_title()
        '4x8, 50.00% pruned'
    """
    if not is_array(kept) or kept.dtype != bool or not kept.size:
        raise StructureMismatch(
            f"expected one leaf of a mask, bool and not empty, got {shown(kept)}: write "
            'mask["dense"]["kernel"], and unpack it if it is packed.'
        )
    whole = np.asarray(kept)
    down, across = _folded(whole.ndim)
    high, wide = (math.prod(whole.shape[axis] for axis in axes) for axes in (down, across))
    drawn = _axes(ax)
    drawn.imshow(
        _shrunk(whole.transpose(*down, *across).reshape(high, wide)),
        cmap=_shades(),
        vmin=0,
        vmax=1,
        interpolation="nearest",
        # A few long rows would look like a line: they are stretched.
        aspect="equal" if max(high, wide) <= 8 * min(high, wide) else "auto",
        extent=(0, wide, high, 0),
    )
    for name, axes, axis in (("y", down, drawn.yaxis), ("x", across, drawn.xaxis)):
        drawn.set(**{f"{name}label": ", in it ".join(f"axis {i}" for i in axes)})
        if not axes:
            axis.set_ticks([])
        elif len(axes) > 1 and whole.shape[axes[0]] <= _TILES:
            tile = math.prod(whole.shape[i] for i in axes[1:])
            axis.set_ticks(tile * np.arange(1, whole.shape[axes[0]]), minor=True)
            axis.remove_overlapping_locs = False
            axis.grid(True, "minor", color=_OTHERS, linewidth=0.6)
    drawn.tick_params(which="minor", length=0)
    shape = "x".join(map(str, whole.shape)) or "()"
    drawn.set(title=f"{shape}, {1 - np.mean(whole, dtype=float):.2%} pruned")
    drawn.spines[:].set_visible(True)
    return drawn


def schedule(schedule: Schedule, target: float = 0.9, *, ax: "Axes | None" = None) -> "Axes":
    """Draws the sparsity over the updates, with a dot where a mask is chosen if there are few.

    Args:
        schedule: The schedule.
        target: The sparsity that the spec asks for.
        ax: The axes to draw on; new ones if None.

    Returns:
        The axes.

    Examples:
        >>> import jaxprune as jp
        >>> ax = jp.plot.schedule(jp.gradual(begin=100, end=400, every=100), 0.9)
        >>> ax.lines[0].get_ydata().round(4).tolist()
        [0.0, 0.0, 0.6333, 0.8667, 0.9, 0.9]
    """
    check_sparsity(target)
    counts = np.arange(schedule.last + 1)
    fires, wanted = jax.vmap(lambda n: (schedule.fires(n), schedule.sparsity(n, target)))(counts)
    chosen = np.asarray(fires)
    updates, sparsities = counts[chosen], np.asarray(wanted, float)[chosen]
    drawn = _axes(ax)
    end = max(1.08 * schedule.last, schedule.last + 1)
    drawn.step(
        [0, *updates, end], [0, *sparsities, sparsities[-1]], where="post", color=_KEPT, zorder=1
    )
    if len(updates) <= _DOTS:  # more would run into each other
        drawn.scatter(updates, sparsities, 14, _PRUNED, zorder=2, clip_on=False)
    drawn.set(xlim=(0, end), ylim=(0, 1.05), xlabel="updates", ylabel="sparsity")
    drawn.set(title=f"{schedule.name}: {len(updates):,} masks")
    return drawn


def sensitivity(result: Sensitivity, *, ax: "Axes | None" = None) -> "Axes":
    """Draws the loss against the sparsity of each leaf alone.

    The six leaves that reach the highest loss have colours and names, the others are grey.

    Args:
        result: What `jp.sensitivity` returned.
        ax: The axes to draw on; new ones if None.

    Returns:
        The axes.

    Examples:
        >>> import jax.numpy as jnp, jaxprune as jp
        >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 5.0]])}
        >>> loss = lambda p: (p["a"].sum() - 3) ** 2 + (p["b"].sum() - 8) ** 2
        >>> ax = jp.plot.sensitivity(jp.sensitivity(loss, params, [0.5]))
        >>> ax.get_legend_handles_labels()[1]
        ['b', 'a', 'nothing pruned: 0']
    """
    drawn = _axes(ax)
    at = [0.0, *result.sparsities]
    ranked = sorted(range(len(result.paths)), key=lambda row: -result.losses[row].max())
    for row, colour, marker in zip(ranked, _COLOURS, _MARKERS, strict=False):
        curve = [result.dense, *result.losses[row]]
        name = result.paths[row] or "(array)"
        drawn.plot(at, curve, color=colour, marker=marker, markersize=4, zorder=3, label=name)
    others = ranked[len(_COLOURS) :]
    for row in others:
        curve = [result.dense, *result.losses[row]]
        name = f"{len(others)} others" if row == others[0] else ""
        drawn.plot(at, curve, color=_OTHERS, linewidth=0.8, label=name)
    dense = f"nothing pruned: {result.dense:.4g}"
    drawn.axhline(result.dense, color=_LINE, linestyle="--", linewidth=1, label=dense)
    drawn.set(xlabel="sparsity of the one leaf", ylabel="loss", title="Each leaf pruned alone")
    drawn.legend(frameon=False)
    return drawn


def _axes(ax: "Axes | None", height: float = 4.0) -> "Axes":
    try:
        from matplotlib import pyplot  # noqa: PLC0415  # heavy, and only pictures need it
    except ImportError:
        raise ImportError(
            "jp.plot draws with matplotlib, which is not installed: pip install matplotlib"
        ) from None
    if ax is None:
        ax = pyplot.subplots(figsize=(6.4, height), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415

    return LinearSegmentedColormap.from_list("kept", ["#FFFFFF", _KEPT])


_Numbers = np.ndarray[Any, Any]


def _parted(scores: Any, mask: Any) -> tuple[_Numbers, _Numbers]:
    """The scores that are kept, or all without a mask, and those that are pruned, each in a row."""
    leaves = concrete_leaves(scores, "plot.scores")
    pairs = [(leaf, None) for leaf in leaves] if mask is None else [*aligned(scores, mask, "mask")]
    raise_problems(mask_problem(leaf, kept) for leaf, kept in pairs)
    kept_scores, pruned_scores = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for leaf, kept in pairs:
        if not is_prunable(leaf.value) or (kept is None and mask is not None):
            continue
        values = np.asarray(leaf.value)
        wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
        stays = np.ones(wide.shape, bool) if kept is None else np.asarray(kept)
        kept_scores.append(wide[stays])
        pruned_scores.append(wide[~stays])
    return np.concatenate(kept_scores), np.concatenate(pruned_scores)


def _folded(ndim: int) -> tuple[list[int], list[int]]:
    """Which axes of a mask go down and which go across, the outermost first."""
    if ndim < 2:
        return [], list(range(ndim))
    *lead, row, column = range(ndim)
    inner = lead[1:][-1:]
    return [row, *(axis for axis in lead if axis not in inner)], [column, *inner]


def _shrunk(image: _Numbers) -> _Numbers:
    """The image of at most `_PIXELS` a side: a pixel is the mean of what it stands for."""
    means: _Numbers = image.astype(np.float32)
    for axis, length in enumerate(image.shape):
        run = -(-length // _PIXELS)
        starts = np.arange(0, length, run)
        lengths = np.diff(starts, append=length)
        sums = np.add.reduceat(means, starts, axis)
        means = sums / (lengths if axis else lengths[:, None])
    return means

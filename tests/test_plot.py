"""Pictures: what is drawn is what was measured. Looks are judged by eye, numbers here."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

import jaxprune as jp

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the backend is settled

RNG = np.random.default_rng(0)
WEIGHTS = jax.device_put(np.float32(RNG.normal(size=(16, 24))))
PARAMS = {
    "up": {"kernel": WEIGHTS, "bias": jnp.ones(24)},
    "down": {"kernel": jax.device_put(np.float32(RNG.normal(size=(24, 8))))},
}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def heights(ax, start):
    """The bars of the series whose label starts so."""
    (bars,) = [c for c in ax.containers if c.get_label().startswith(start)]
    return np.array([bar.get_height() for bar in bars])


# --- scores -------------------------------------------------------------------------------------


def test_scores_all_stand_in_the_histogram():
    ax = jp.plot.scores(jp.importance(PARAMS, jp.L1()), bins=30)
    counts = heights(ax, "scores: 600")  # the bias is scored too
    assert (len(counts), counts.sum()) == (30, 600)
    everything = np.concatenate([np.abs(leaf).ravel() for leaf in jax.tree.leaves(PARAMS)])
    np.testing.assert_array_equal(counts, np.histogram(everything, 30)[0])


def test_kept_scores_stand_on_the_pruned_ones_and_the_threshold_between():
    scores = jp.importance(WEIGHTS, jp.L1())
    ax = jp.plot.scores(scores, jp.make_mask(scores, 0.25))
    assert labels(ax)[1:] == ["pruned: 96", "kept: 288"]
    assert (heights(ax, "pruned").sum(), heights(ax, "kept").sum()) == (96, 288)
    lowest_kept = np.sort(np.asarray(scores).ravel())[96]
    assert ax.lines[0].get_xdata()[0] == lowest_kept
    kept, pruned = ax.containers[1], ax.containers[0]
    for upper, lower in zip(kept, pruned, strict=True):
        assert upper.get_y() == lower.get_height()


def test_no_threshold_is_drawn_where_there_is_none():
    scores = jp.importance(WEIGHTS, jp.L1())
    assert not jp.plot.scores(scores, jp.make_mask(scores, jp.NM(2, 4))).lines
    assert not jp.plot.scores(scores).lines


def test_leaves_without_a_mask_are_left_out():
    scores = jp.importance(PARAMS, jp.L1())
    ax = jp.plot.scores(scores, jp.make_mask(scores, {"up": jp.Unstructured(0.5), "down": None}))
    assert labels(ax)[1:] == ["pruned: 192", "kept: 192"]


def test_scores_that_are_not_finite_are_counted_and_not_drawn():
    ax = jp.plot.scores(jnp.array([1.0, jnp.nan, 2.0, jnp.inf], jnp.bfloat16))
    assert labels(ax) == ["scores: 4"]
    assert heights(ax, "scores").sum() == 2
    assert "2 that are not finite are left out" in ax.get_title()
    with pytest.raises(jp.NoMatch, match="no finite scores"):
        jp.plot.scores(jnp.array([jnp.nan]))


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(jp.StructureMismatch, match="make the mask from these"):
        jp.plot.scores(WEIGHTS, jnp.ones((2, 2), bool))


# --- sparsity -----------------------------------------------------------------------------------


def test_bars_are_the_reports_sparsities():
    pruned, mask = jp.prune(PARAMS, {"up": 0.3, "*": jp.NM(1, 4)})
    report = jp.report(pruned, mask)
    ax = jp.plot.sparsity(report)
    rows = [row for row in report.rows if row.in_scope]
    assert [bar.get_width() for bar in ax.patches] == [row.count.sparsity for row in rows]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["down/kernel", "up/kernel"]
    assert [text.get_text() for text in ax.texts] == ["75.00%", "29.95%"]
    assert ax.yaxis_inverted()  # the first leaf is on top
    assert ax.lines[0].get_xdata()[0] == report.pruned.sparsity
    assert f"{report.all.sparsity:.2%} of all parameters" in ax.get_title()


def test_many_leaves_make_a_high_picture():
    many = jp.report({f"layer_{i}": jnp.eye(4) for i in range(60)})
    few = jp.report({"layer": jnp.eye(4)})
    assert jp.plot.sparsity(many).figure.get_figheight() > 15
    assert jp.plot.sparsity(few).figure.get_figheight() < 3


def test_parameters_in_place_of_a_report_are_refused():
    with pytest.raises(jp.PruningError, match=r"write jp.report\(params\)"):
        jp.plot.sparsity(PARAMS)


# --- masks --------------------------------------------------------------------------------------


def image(ax):
    return np.asarray(ax.images[0].get_array())


def test_a_matrix_is_drawn_as_it_is():
    kept = jp.make_mask(WEIGHTS, 0.5)
    ax = jp.plot.mask(kept)
    np.testing.assert_array_equal(image(ax), kept)
    assert ax.images[0].get_extent() == [0, 24, 16, 0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("axis 1", "axis 0")
    assert ax.get_title() == "16x24, 50.00% pruned"


def test_a_convolution_is_drawn_in_tiles_of_its_window():
    kept = RNG.random((3, 2, 4, 5)) < 0.5
    ax = jp.plot.mask(jax.device_put(kept))
    drawn = image(ax)
    assert drawn.shape == (4 * 3, 5 * 2)
    for i in range(4):
        for o in range(5):
            tile = drawn[3 * i : 3 * i + 3, 2 * o : 2 * o + 2]
            np.testing.assert_array_equal(tile, kept[:, :, i, o])
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("axis 2, in it axis 0", "axis 3, in it axis 1")
    assert ax.xaxis.get_minorticklocs().tolist() == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((7,), (1, 7)), ((2, 3, 4), (6, 4)), ((2, 3, 5, 6, 7), (6 * 2 * 3, 7 * 5))],
    ids=str,
)
def test_any_rank(shape, expected):
    kept = np.asarray(RNG.random(shape) < 0.5)
    drawn = image(jp.plot.mask(kept))
    assert drawn.shape == expected
    assert drawn.sum() == kept.sum()


def test_a_large_mask_is_averaged():
    kept = RNG.random((1030, 8)) < 0.3
    drawn = image(jp.plot.mask(kept))
    assert drawn.shape == (344, 8)  # three rows a pixel, and one for the last pixel
    expected = [kept[i : i + 3].mean(0) for i in range(0, 1030, 3)]
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"kernel": jnp.ones((2, 2), bool)}, jnp.ones((2, 2)), None, jnp.ones((0, 2), bool)]
)
def test_what_is_no_mask_of_a_leaf_is_refused(wrong):
    with pytest.raises(jp.StructureMismatch, match="one leaf of a mask, bool and not empty"):
        jp.plot.mask(wrong)


# --- schedules ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        jp.one_shot(5),
        jp.one_shot(0),
        jp.gradual(3, 30, 4, initial=0.1),
        jp.periodic(10, 26, sparse=4, dense=2),
    ],
    ids=lambda schedule: schedule.name,
)
def test_a_schedule_steps_where_it_fires(schedule):
    ax = jp.plot.schedule(schedule, 0.7)
    fired = [count for count in range(schedule.last + 1) if schedule.fires(count)]
    wanted = [float(schedule.sparsity(count, 0.7)) for count in fired]
    updates, sparsities = (np.asarray(data, float) for data in ax.lines[0].get_data())
    assert updates[0] == sparsities[0] == 0  # dense until the first
    assert updates[1:-1].tolist() == fired
    np.testing.assert_allclose(sparsities[1:-1], wanted, rtol=1e-6)
    assert (sparsities[-1], ax.lines[0].get_drawstyle()) == (np.float32(0.7), "steps-post")
    assert ax.collections[0].get_offsets()[:, 0].tolist() == fired
    assert ax.get_title() == f"{schedule.name}: {len(fired)} masks"


def test_a_schedule_of_many_masks_has_no_dots():
    assert not jp.plot.schedule(jp.gradual(0, 100)).collections


def test_a_target_that_is_none_is_refused():
    with pytest.raises(jp.InvalidSparsity, match="fraction removed"):
        jp.plot.schedule(jp.one_shot(5), 90)


# --- sensitivity --------------------------------------------------------------------------------


def measured(n):
    losses = 1 + np.outer(RNG.permutation(n) + 1.0, [0.1, 1.0])
    paths = tuple(f"layer_{i}" for i in range(n))
    return jp.Sensitivity(paths, (10,) * n, (0.5, 0.9), 1.0, losses, np.tile([5, 9], (n, 1)))


def test_every_leaf_is_a_line_from_the_dense_loss_on():
    result = measured(9)
    ax = jp.plot.sensitivity(result)
    *lines, dense = ax.lines
    drawn = sorted(list(line.get_ydata()[1:]) for line in lines)
    np.testing.assert_array_equal(drawn, sorted(result.losses.tolist()))
    assert all(list(line.get_xdata()) == [0.0, 0.5, 0.9] for line in lines)
    assert all(line.get_ydata()[0] == 1.0 for line in lines)
    assert list(dense.get_ydata()) == [1.0, 1.0]


def test_the_most_sensitive_leaves_are_named():
    result = measured(9)
    *named, others, dense = labels(jp.plot.sensitivity(result))
    worst = np.argsort(-result.losses.max(1))[:6]
    assert named == [f"layer_{i}" for i in worst]
    assert (others, dense) == ("3 others", "nothing pruned: 1")
    assert labels(jp.plot.sensitivity(measured(2)))[2:] == ["nothing pruned: 1"]


# --- axes, and matplotlib -----------------------------------------------------------------------


def test_each_draws_on_the_axes_it_is_given():
    pictures = {
        jp.plot.scores: WEIGHTS,
        jp.plot.sparsity: jp.report(PARAMS),
        jp.plot.mask: WEIGHTS > 0,
        jp.plot.schedule: jp.one_shot(3),
        jp.plot.sensitivity: measured(2),
    }
    assert {draw.__name__ for draw in pictures} == set(jp.plot.__all__)
    for draw, what in pictures.items():
        ax = plt.subplots()[1]
        assert draw(what, ax=ax) is ax
        ax.figure.canvas.draw()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('matplotlib' in sys.modules)", "False"),
        (
            "sys.modules['matplotlib'] = None\n"
            "try: jp.plot.schedule(jp.one_shot())\n"
            "except ImportError as error: print(error)",
            "jp.plot draws with matplotlib, which is not installed: pip install matplotlib",
        ),
    ],
    ids=["not imported before it is needed", "missing"],
)
def test_matplotlib(code, expected):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, jaxprune as jp\njp.plot.scores\n{code}"],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected

"""The Gram of a convolution by correlations is that of its patches."""

import jax
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.calibration._correlations import Axis, Window

CHANNELS = 16

# The image, the kernel, padding, what lies between taps, groups.
CASES = {
    "same": ((9, 7), (3, 3), "SAME", (1, 1), 1),
    "valid": ((9, 7), (3, 3), "VALID", (1, 1), 1),
    "groups": ((9, 7), (3, 3), "SAME", (1, 1), 2),
    "dilated": ((12, 17), (3, 3), "SAME", (2, 3), 1),
    "uneven": ((12, 17), (3, 2), ((2, 0), (0, 3)), (1, 1), 1),
    "cropped": ((12, 17), (5, 1), ((-1, 2), (0, 0)), (1, 1), 1),
    "as large as the image": ((3, 3), (3, 3), "SAME", (1, 1), 1),
}
LAYOUTS = {
    "NHWC": ("NHWC", "HWIO", "NHWC"),
    "NCHW": ("NCHW", "OIHW", "NCHW"),
}


def patches(images, kernel, padding, dilation, outputs):
    """What each tap reads, [images, *outputs, taps, channels], in float64."""
    images = np.asarray(images, np.float64)
    for axis, (low, high) in enumerate(padding, 1):
        width = [(0, 0)] * images.ndim
        width[axis] = max(low, 0), max(high, 0)
        images = np.pad(images, width)
        images = np.take(images, range(max(-low, 0), images.shape[axis]), axis)
    rows, columns = outputs
    read = [
        images[:, i * dilation[0] :, j * dilation[1] :][:, :rows, :columns]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return np.stack(read, 3)


@pytest.mark.parametrize(
    ("name", "layout"),
    [*((name, "NHWC") for name in CASES), ("groups", "NCHW"), ("uneven", "NCHW")],
)
def test_it_is_the_gram_of_patches(name, layout):
    size, kernel, padding, dilation, groups = CASES[name]
    random = np.random.default_rng(0)
    x = random.standard_normal((4, *size, groups * CHANNELS), np.float32)
    w = random.standard_normal((*kernel, CHANNELS, groups * 2), np.float32)
    if layout == "NCHW":
        x_read, w = np.transpose(x, (0, 3, 1, 2)), np.transpose(w, (3, 2, 0, 1))
    else:
        x_read = x

    def f(params, x):
        return lax.conv_general_dilated(
            x,
            params["w"],
            (1, 1),
            padding,
            rhs_dilation=dilation,
            dimension_numbers=LAYOUTS[layout],
            feature_group_count=groups,
        )

    stats = jp.calibrate(f, {"w": w}, [(x_read[:2],), (x_read[2:],)], gather="gram")
    spread = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(size, spread, (1, 1), padding)
    outputs = [n + sum(p) - s + 1 for n, p, s in zip(size, padding, spread, strict=True)]
    read = patches(x, kernel, padding, dilation, outputs)
    for group in range(groups):
        mine = read[..., group * CHANNELS : (group + 1) * CHANNELS]
        mine = mine if layout == "NHWC" else np.swapaxes(mine, -1, -2)
        rows = mine.reshape(-1, mine.shape[-1] * mine.shape[-2])
        gram = rows.T @ rows
        got = np.asarray(stats.grams["w"])[group]
        assert np.abs(got - gram).max() <= 3e-6 * np.abs(gram).max()
    assert stats.counts["w"][0] == 4 * np.prod(outputs)


def test_images_of_two_sizes_add_up():
    random = np.random.default_rng(0)
    params = {"w": jax.device_put(np.float32(random.standard_normal((3, 3, CHANNELS, 2))))}

    def f(params, x):
        return lax.conv_general_dilated(
            x, params["w"], (1, 1), "SAME", dimension_numbers=LAYOUTS["NHWC"]
        )

    small, large = (
        (jax.device_put(np.float32(random.standard_normal((2, n, n, CHANNELS)))),) for n in (6, 8)
    )
    both = jp.calibrate(f, params, [small, large], gather="gram").grams["w"]
    each = [jp.calibrate(f, params, [batch], gather="gram").grams["w"] for batch in (small, large)]
    np.testing.assert_allclose(both, each[0] + each[1], rtol=1e-5, atol=1e-3)


def test_a_kernel_of_three_by_three_is_thirteen_distances_and_a_border():
    window = Window((Axis(32, 3, 1, 1, 32),) * 2)
    whole = {part.distance for part in window.parts if part.strip == (None, None)}
    assert len(whole) == 13
    assert window.work < 0.25

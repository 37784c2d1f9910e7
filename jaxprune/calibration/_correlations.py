"""The Gram of what a convolution reads, by correlations in place of patches.

Where a kernel moves by one, its taps read the same image, each shifted. So what two taps read
together is the image's correlation with itself at the distance between them, less what the border
keeps one of them from reading: and that depends on a few rows alone. A kernel of 3 by 3 has 45
pairs of taps, and 13 distances. What is summed over batches are correlations; the Gram is put
together from them once, at the end.
"""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune._tree import node

_EXACT = lax.Precision.HIGHEST

Distance: TypeAlias = tuple[int, ...]  # from one tap to another, along each axis


class Line(NamedTuple):
    """A position along an axis at which the first of two taps reads, and how far off the second."""

    at: int
    distance: int


Strip: TypeAlias = tuple[Line | None, ...]  # for each axis a line, or all of it


class Axis(NamedTuple):
    """An axis along which a kernel moves by one.

    Attributes:
        length: Of the image.
        taps: How many the kernel has.
        step: From one tap to the next.
        before: How many zeros are put before the image.
        outputs: How many positions the kernel takes.
    """

    length: int
    taps: int
    step: int
    before: int
    outputs: int

    def read_by(self, first: int, second: int) -> list[tuple[Line | None, int]]:
        """The parts of the axis whose correlations make up what two taps read, and their signs."""
        distance = (second - first) * self.step
        start = first * self.step - self.before
        both = range(max(0, -distance), self.length - max(0, distance))
        outside = [q for q in both if not 0 <= q - start < self.outputs]
        return [(None, 1), *((Line(q, distance), -1) for q in outside)]


class Part(NamedTuple):
    """A correlation that the products of two taps are made of.

    Attributes:
        pair: The numbers of the taps.
        strip: Where the image is correlated with itself.
        distance: How far off.
        sign: Whether it is added or taken away.
    """

    pair: tuple[int, int]
    strip: Strip
    distance: Distance
    sign: int


@dataclass(frozen=True)
class Window:
    """A kernel's taps, and the correlations that their Gram is made of."""

    axes: tuple[Axis, ...]

    @functools.cached_property
    def taps(self) -> list[tuple[int, ...]]:
        """All taps, in row-major order."""
        return list(itertools.product(*(range(axis.taps) for axis in self.axes)))

    @functools.cached_property
    def parts(self) -> list[Part]:
        """What the products of each pair of taps are made of."""
        parts = []
        for (i, first), (j, second) in itertools.combinations_with_replacement(
            enumerate(self.taps), 2
        ):
            pairs = list(zip(self.axes, first, second, strict=True))
            distance = tuple((b - a) * axis.step for axis, a, b in pairs)
            for each in itertools.product(*(axis.read_by(a, b) for axis, a, b in pairs)):
                strip, signs = zip(*each, strict=True)
                parts.append(Part((i, j), strip, distance, math.prod(signs)))
        return parts

    @functools.cached_property
    def strips(self) -> dict[Strip, tuple[range, ...]]:
        """Where the image is correlated with itself, and along each axis at which distances."""
        wanted: dict[Strip, list[Distance]] = {}
        for part in self.parts:
            wanted.setdefault(part.strip, []).append(part.distance)
        return {
            strip: tuple(
                range(min(along), max(along) + 1, axis.step)
                for axis, along in zip(self.axes, zip(*distances, strict=True), strict=True)
            )
            for strip, distances in wanted.items()
        }

    @property
    def work(self) -> float:
        """How many products are summed, for each that patches would take."""
        ours = sum(
            math.prod(
                len(along) * (axis.length if line is None else 1)
                for axis, line, along in zip(self.axes, strip, ranges, strict=True)
            )
            for strip, ranges in self.strips.items()
        )
        return ours / (len(self.taps) ** 2 * math.prod(axis.outputs for axis in self.axes))


@node("sums")
@dataclass(frozen=True, slots=True)
class Correlations:
    """What images that a convolution reads are correlated to, summed over them.

    Attributes:
        sums: For each of the window's strips [*turns, groups, channels, *distances, channels],
            float32: the second tap's channels, and the first's.
        window: The kernel.
        order: Which axes of [channels, *taps] the inputs have one after another.
    """

    sums: tuple[Any, ...]
    window: Window
    order: tuple[int, ...]

    def gram(self) -> jax.Array:
        """The sums of products of each pair of inputs, [*turns, groups, in, in]."""
        count = len(self.window.taps)
        pairs = list(itertools.combinations_with_replacement(range(count), 2))
        number = {pair: k for k, pair in enumerate(pairs)}
        terms = {key: k for k, key in enumerate(dict.fromkeys(map(_key, self.window.parts)))}
        signs = np.zeros((len(pairs), len(terms)), np.float32)
        for part in self.window.parts:
            signs[number[part.pair], terms[_key(part)]] += part.sign
        each = jnp.stack([self._term(*key) for key in terms], -3)
        upper = jnp.einsum("pt,...tdc->...pcd", signs, each, precision=_EXACT)
        at = np.array([[number[min(i, j), max(i, j)] for j in range(count)] for i in range(count)])
        is_upper = np.triu(np.ones((count, count), bool))[..., None, None]
        both = jnp.take(upper, at, -3)
        both = jnp.where(is_upper, both, jnp.swapaxes(both, -1, -2))
        return self._laid_out(both)

    def _term(self, strip: Strip, distance: Distance) -> jax.Array:
        """One correlation, [..., channels, channels]."""
        number = list(self.window.strips).index(strip)
        ranges = self.window.strips[strip]
        at = tuple(along.index(d) for along, d in zip(ranges, distance, strict=True))
        term: jax.Array = self.sums[number][(..., *at, slice(None))]
        return term

    def _laid_out(self, both: jax.Array) -> jax.Array:
        """[..., taps, taps, channels, channels] as a square of inputs in their order."""
        *lead, _, _, channels, _ = both.shape
        sizes = [channels, *(axis.taps for axis in self.window.axes)]
        both = jnp.einsum("...ijcd->...cidj", both).reshape(*lead, *sizes, *sizes)
        first, rank = len(lead), len(sizes)
        order = [*range(first), *(first + k for k in self.order)]
        order += [first + rank + k for k in self.order]
        return jnp.transpose(both, order).reshape(*lead, math.prod(sizes), math.prod(sizes))


def _key(part: Part) -> tuple[Strip, Distance]:
    return part.strip, part.distance


def correlations(images: jax.Array, window: Window, order: tuple[int, ...]) -> Correlations:
    """What images of [groups, batch, *axes, channels] are correlated to."""
    rank = len(window.axes)
    # A convolution of the channels with themselves, as of a kernel's gradient: one sum over the
    # images and their positions for every distance.
    spec = (rank + 1, 0, *range(1, rank + 1))
    layout = lax.ConvDimensionNumbers(spec, spec, (0, rank + 1, *range(1, rank + 1)))

    def correlated(images: jax.Array, strip: Strip, ranges: tuple[range, ...]) -> jax.Array:
        first, second = [slice(None)], [slice(None)]
        padding = []
        for line, along in zip(strip, ranges, strict=True):
            at, off = (None, 0) if line is None else line
            first.append(slice(None) if at is None else slice(at, at + 1))
            second.append(slice(None) if at is None else slice(at + off, at + off + 1))
            padding.append((off - along[0], along[-1] - off))
        return lax.conv_general_dilated(
            images[tuple(second)],
            images[tuple(first)],
            window_strides=[along.step for along in ranges],
            padding=padding,
            dimension_numbers=layout,
            precision=_EXACT,
        )

    sums = (
        jax.vmap(functools.partial(correlated, strip=strip, ranges=ranges))(images)
        for strip, ranges in window.strips.items()
    )
    return Correlations(tuple(sums), window, order)

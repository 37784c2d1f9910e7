"""`keras.applications` on the JAX backend, as `stateless_call` runs them."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.packages.model import Layout, PackageModel, images, window_squares

os.environ["KERAS_BACKEND"] = "jax"

import keras

_DENSE, _CONVOLUTION, _DEPTHWISE = ((0,), (1,)), ((0, 1, 2), (3,)), ((0, 1), (2, 3))


def models() -> dict[str, Callable[[], PackageModel]]:
    """The models by name."""
    names = ("ResNet50", "MobileNetV3Small", "EfficientNetB0", "ConvNeXtTiny", "DenseNet121")
    return {
        **{name: functools.partial(_application, name) for name in names},
        "attention, LSTM, EinsumDense": _sequence,
    }


def _application(name: str) -> PackageModel:
    return _as_function(getattr(keras.applications, name)(weights=None), images(1, 224, 224, 3))


def _sequence() -> PackageModel:
    """A small classifier of Keras's layers for sequences."""
    x = given = keras.Input((24, 64))
    x = x + keras.layers.MultiHeadAttention(4, 16)(keras.layers.LayerNormalization()(x), x)
    x = keras.layers.EinsumDense("btd,dhk->bthk", (24, 4, 24), activation="gelu")(x)
    x = keras.layers.Reshape((24, 96))(x)
    x = keras.layers.Bidirectional(keras.layers.LSTM(48, return_sequences=True))(x)
    x = keras.layers.GRU(40)(x)
    return _as_function(keras.Model(given, keras.layers.Dense(10)(x)), images(2, 24, 64))


def _as_function(model: Any, x: jax.Array) -> PackageModel:
    places = [
        [variable.path for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]

    def forward(params: dict[str, Any], x: jax.Array) -> Any:
        values = [[params[path] for path in paths] for paths in places]
        return model.stateless_call(*values, x, training=False)[0]

    params = {variable.path: variable.value for variable in model.variables}
    layers = [layer for layer in model.layers if _layout(layer) is not None]
    layout: Layout = {_kernel(layer).path: _layout(layer) for layer in layers}
    return PackageModel(forward, params, (x,), layout, functools.partial(_squares, model, layers))


def _kernel(layer: Any) -> Any:
    return layer.kernel


def _layout(layer: Any) -> Any:
    """What Keras's documentation says of a layer's kernel."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return _DEPTHWISE
    if isinstance(layer, keras.layers.Conv2D):
        return _CONVOLUTION
    if isinstance(layer, keras.layers.EinsumDense):
        into, letters, out = layer.equation.replace("->", ",").split(",")
        summed = tuple(
            k for k, letter in enumerate(letters) if letter in into and letter not in out
        )
        return summed, tuple(k for k in range(len(letters)) if k not in summed)
    return _DENSE if isinstance(layer, keras.layers.Dense) else None


def _squares(model: Any, layers: list[Any], params: Any, x: jax.Array) -> dict[str, np.ndarray]:
    for variable in model.variables:
        variable.assign(params[variable.path])
    given = keras.Model(model.inputs, [layer.input for layer in layers])(x, training=False)
    found = {}
    for layer, read in zip(layers, given, strict=True):
        if isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense):
            one = window_squares(np.asarray(read).reshape(-1, read.shape[-1]), (), (), "valid")
            one = one.reshape(-1, *[1] * (_kernel(layer).ndim - 1))
        else:
            size, strides = tuple(layer.kernel_size), tuple(layer.strides)
            one = window_squares(read, size, strides, layer.padding)
            # Of a convolution in as many groups as channels, each reads its own.
            in_groups = getattr(layer, "groups", 1) > 1
            one = one[..., None, :] if in_groups else one[..., None]
        found[_kernel(layer).path] = one
    return found

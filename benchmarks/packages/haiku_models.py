"""Haiku's networks, as `hk.transform_with_state` makes functions of them."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.packages.model import Layout, PackageModel, images, window_squares


def models() -> dict[str, Callable[[], PackageModel]]:
    """The models by name."""
    return {
        "hk.nets.ResNet50": lambda: _as_function(_resnet, images(1, 224, 224, 3)),
        "hk.nets.MobileNetV1": lambda: _as_function(_mobilenet, images(1, 224, 224, 3)),
        "hk.nets.MLP": lambda: _as_function(
            lambda x, _: hk.nets.MLP([512, 256, 10])(x), images(16, 784)
        ),
        "hk.LSTM, hk.GRU, unrolled": lambda: _as_function(_recurrent, images(12, 4, 96)),
        "hk.MultiHeadAttention, 6 layers": lambda: _as_function(_attending, images(2, 32, 192)),
        "hk.experimental.layer_stack": lambda: _as_function(_stacked, images(2, 32, 192)),
    }


def _resnet(x: jax.Array, is_training: bool) -> jax.Array:
    return hk.nets.ResNet50(1000)(x, is_training)


def _mobilenet(x: jax.Array, is_training: bool) -> jax.Array:
    return hk.nets.MobileNetV1()(x, is_training)


def _recurrent(x: jax.Array, _: bool) -> jax.Array:
    x, _ = hk.dynamic_unroll(hk.LSTM(128), x, hk.LSTM(128, name="start").initial_state(4))
    x, _ = hk.static_unroll(hk.GRU(64), x, jnp.zeros((4, 64)))
    return hk.Linear(10)(x[-1])


def _layer(x: jax.Array) -> jax.Array:
    """A layer of a transformer."""
    norm = hk.LayerNorm(-1, create_scale=True, create_offset=True)
    y = norm(x)
    initial = hk.initializers.VarianceScaling(1.0)
    x = x + hk.MultiHeadAttention(6, 32, model_size=192, w_init=initial)(y, y, y)
    norm = hk.LayerNorm(-1, create_scale=True, create_offset=True)
    return x + hk.Linear(192)(jax.nn.gelu(hk.Linear(768)(norm(x))))


def _attending(x: jax.Array, _: bool) -> jax.Array:
    x = hk.Linear(192)(x)
    for _ in range(6):
        x = _layer(x)
    return hk.Linear(10)(x.mean(1))


def _stacked(x: jax.Array, _: bool) -> jax.Array:
    x = hk.Linear(192)(x)
    x = hk.experimental.layer_stack(6)(_layer)(x)
    return hk.Linear(10)(x.mean(1))


def _as_function(network: Callable[[jax.Array, bool], jax.Array], x: jax.Array) -> PackageModel:
    model = hk.without_apply_rng(hk.transform_with_state(network))
    layout: Layout = {}

    def init(key: jax.Array, x: jax.Array) -> Any:
        return model.init(key, x, True)  # batch norm makes its statistics in training only

    _intercepted(layout, lambda: jax.eval_shape(init, jax.random.key(0), x))
    params, state = jax.eval_shape(init, jax.random.key(0), x)
    # Layers inside of a stack have other names there than in the tree.
    layout = {path: axes for path, axes in layout.items() if path[len("params/") : -2] in params}

    def forward(both: dict[str, Any], x: jax.Array) -> jax.Array:
        return model.apply(both["params"], both["state"], x, False)[0]

    def squares(both: dict[str, Any], x: jax.Array) -> dict[str, np.ndarray]:
        seen: dict[str, np.ndarray] = {}

        def look(path: str, module: Any, read: Any) -> None:
            if isinstance(read, jax.core.Tracer):
                return
            if isinstance(module, hk.Linear):
                flat = np.asarray(read).reshape(-1, read.shape[-1])
                one = window_squares(flat, (), (), "valid")[:, None]
            else:
                padding = module.padding
                padding = padding.lower() if isinstance(padding, str) else padding
                one = window_squares(read, module.kernel_shape, module.stride, padding)
                one = one[..., None, :] if _is_depthwise(module) else one[..., None]
            seen[path] = seen.get(path, 0) + one

        _intercepted({}, lambda: forward(both, x), look)
        return seen

    both = {"params": params, "state": state}
    return PackageModel(forward, both, (x,), layout, squares)


def _is_depthwise(module: Any) -> bool:
    return isinstance(module, hk.DepthwiseConv2D)


def _axes(module: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """What Haiku's documentation says of a layer's `w`."""
    if isinstance(module, hk.Linear):
        return (0,), (1,)
    if _is_depthwise(module):
        return (0, 1, 2), (3,)
    return ((0, 1, 2), (3,)) if isinstance(module, hk.Conv2D) else None


def _intercepted(
    layout: Any, run: Callable[[], Any], look: Callable[[str, Any, Any], None] | None = None
) -> None:
    """Runs a network, and notes the layers that it calls."""

    def step(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        axes = _axes(module) if context.method_name == "__call__" else None
        path = f"params/{getattr(module, 'module_name', '')}/w"
        if axes is not None:
            layout[path] = axes
            if look is not None:
                look(path, module, args[0])
        return call(*args, **kwargs)

    with hk.intercept_methods(step):
        run()

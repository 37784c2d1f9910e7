"""Equinox modules: those of equimo, a package of vision models, and Equinox's own layers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from benchmarks.packages.model import Layout, PackageModel, images
from jaxprune._tree import leaves


def models() -> dict[str, Callable[[], PackageModel]]:
    """The models by name."""
    return {
        "eqx.nn.MLP": lambda: _as_function(
            lambda key: eqx.nn.MLP(784, 10, 512, 2, key=key), images(16, 784)
        ),
        "eqx.nn attention, LSTM, conv": lambda: _as_function(Sequence, images(2, 64, 24)),
        "equimo ViT-S/16": lambda: _equimo("vit_small_patch16_224", 224),
        "equimo ConvNeXt-T": lambda: _equimo("convnext_t", 224),
        "equimo MobileNetV3-small": lambda: _equimo("mobilenetv3_small", 224),
        "equimo IFormer-T": lambda: _equimo("iformer_t", 224),
        "equimo AttNet-XXS": lambda: _equimo("attnet_xxs", 224),
        "equimo ReduceFormer-B1": lambda: _equimo("reduceformer_backbone_b1", 224),
    }


class Sequence(eqx.Module):
    """A convolution, attention, an LSTM that is scanned, and a group norm."""

    conv: eqx.nn.Conv1d
    norm: eqx.nn.GroupNorm
    attention: eqx.nn.MultiheadAttention
    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        self.conv = eqx.nn.Conv1d(64, 96, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.GroupNorm(8, 96)
        self.attention = eqx.nn.MultiheadAttention(6, 96, key=keys[1])
        self.cell = eqx.nn.LSTMCell(96, 80, key=keys[2])
        self.head = eqx.nn.Linear(80, 10, key=keys[3])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of ten classes for x [features, time]."""
        x = jax.nn.gelu(self.norm(self.conv(x))).T
        x = x + self.attention(x, x, x)
        state, _ = jax.lax.scan(
            lambda state, one: (self.cell(one, state), None), (jnp.zeros(80), jnp.zeros(80)), x
        )
        return self.head(state[0])


def _equimo(name: str, size: int) -> PackageModel:
    import equimo.models

    make: Any = getattr(equimo.models, name)
    return _as_function(lambda key: make(key=key), images(1, 3, size, size))


def _as_function(make: Callable[[jax.Array], Any], x: jax.Array) -> PackageModel:
    model = eqx.filter_eval_shape(make, jax.random.key(0))
    model = eqx.nn.inference_mode(model)

    arrays, rest = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    takes_key = "key" in type(model).__call__.__annotations__

    def forward(arrays: Any, x: jax.Array) -> Any:
        model, key = eqx.combine(arrays, rest), jax.random.key(0)
        return jax.vmap(lambda one: model(one, key=key) if takes_key else model(one))(x)

    return PackageModel(forward, arrays, (x,), _layout(arrays))


def _layout(model: Any) -> Layout:
    """By the documentation of Equinox: kernels are [out, in, ...]."""
    found: dict[int, Any] = {}

    def note(module: Any) -> bool:
        if isinstance(module, eqx.nn.Linear):
            found[id(module.weight)] = (1,), (0,)
        elif isinstance(module, eqx.nn.Conv):
            found[id(module.weight)] = tuple(range(1, module.weight.ndim)), (0,)
        return False

    jax.tree.leaves(model, is_leaf=note)
    return {leaf.path: found[id(leaf.value)] for leaf in leaves(model) if id(leaf.value) in found}

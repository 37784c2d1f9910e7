"""Parameters shaped like well-known networks, and one leaf as large as a network."""

from typing import Any

import jax
import numpy as np

import jaxprune as jp


def resnet50() -> dict[str, Any]:
    """ResNet-50 as Flax's ImageNet example names it: 161 leaves, 25.6 M weights."""
    shapes: dict[str, Any] = {"conv_init": _kernel(7, 7, 3, 64), "bn_init": _norm(64)}
    width, index = 64, 0
    for stage, blocks in enumerate([3, 4, 6, 3]):
        filters = 64 * 2**stage
        for position in range(blocks):
            block = {
                "Conv_0": _kernel(1, 1, width, filters),
                "Conv_1": _kernel(3, 3, filters, filters),
                "Conv_2": _kernel(1, 1, filters, 4 * filters),
            } | {f"BatchNorm_{i}": _norm(filters * (4 if i == 2 else 1)) for i in range(3)}
            if not position:
                block |= {"conv_proj": _kernel(1, 1, width, 4 * filters)}
                block |= {"norm_proj": _norm(4 * filters)}
            shapes[f"BottleneckResNetBlock_{index}"] = block
            width, index = 4 * filters, index + 1
    return shapes | {"Dense_0": _dense(2048, 1000)}


def vit_b16() -> dict[str, Any]:
    """ViT-B/16 without its head, its queries, keys and values fused: 150 leaves, 85.8 M weights."""
    width = 768
    block = {
        "LayerNorm_0": _norm(width),
        "LayerNorm_1": _norm(width),
        "attention": {"qkv": _dense(width, 3 * width), "out": _dense(width, width)},
        "mlp": {"Dense_0": _dense(width, 4 * width), "Dense_1": _dense(4 * width, width)},
    }
    return {
        "cls": (1, 1, width),
        "embedding": _kernel(16, 16, 3, width) | {"bias": (width,)},
        "pos_embedding": (1, 197, width),
        "encoder_norm": _norm(width),
    } | {f"encoderblock_{i}": block for i in range(12)}


def large_leaf() -> dict[str, Any]:
    """One leaf of 100 M weights."""
    return _kernel(10_000, 10_000)


NETWORKS = {"ResNet-50": resnet50, "ViT-B/16": vit_b16, "one leaf of 100 M": large_leaf}


def shapes(network: str) -> Any:
    """The parameters of a network as shapes alone."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32),
        NETWORKS[network](),
        is_leaf=lambda node: isinstance(node, tuple),
    )


def filled(network: str) -> Any:
    """The parameters of a network, drawn from a normal distribution."""
    random = np.random.default_rng(0)
    return jax.block_until_ready(
        jax.tree.map(
            lambda leaf: jax.device_put(random.standard_normal(leaf.shape, np.float32)),
            shapes(network),
        )
    )


def weights(network: str) -> list[Any]:
    """The leaves that the default `where` takes, as NumPy's arrays: what rivals prune."""
    params = filled(network)
    rows = jp.plan(params, 0.5).rows
    leaves = zip(jax.tree.leaves(params), rows, strict=True)
    return [np.asarray(leaf) for leaf, row in leaves if row.spec is not None]


def bytes_of(params: Any) -> float:
    """What arrays, or shapes, take."""
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)))


def size_in_scope(params: Any) -> int:
    """How many weights the default `where` takes."""
    return sum(row.weights for row in jp.plan(params, 0.5).rows if row.spec is not None)


def _kernel(*shape: int) -> dict[str, Any]:
    return {"kernel": shape}


def _dense(inputs: int, outputs: int) -> dict[str, Any]:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def _norm(width: int) -> dict[str, Any]:
    return {"scale": (width,), "bias": (width,)}

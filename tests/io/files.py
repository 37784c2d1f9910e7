"""Checkpoints in every format, for the tests of reading and writing them."""

import json
import os
from pathlib import Path

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy

import jaxprune as jp
from jaxprune import io
from jaxprune.io._checkpoint import numpy_dtype

ROOT = Path(__file__).parents[2]


RNG = np.random.default_rng(0)


def normal(*shape, dtype="float32"):
    return RNG.normal(size=shape).astype(numpy_dtype(dtype))


def model():
    """Names as PyTorch writes them, in an order that is not the library's, and many dtypes."""
    return {
        "layers.10.mlp.weight": normal(8, 16),
        "layers.2.mlp.weight": normal(8, 16, dtype="bfloat16"),
        "layers.2.attn.weight": normal(12, 8, dtype="float16"),
        "layers.2.norm.weight": normal(8),
        "embed_tokens.weight": normal(6, 8),
        "head.weight": normal(4, 8, dtype="float64"),
        "steps": np.arange(5),
        "scale8": normal(4, 4).astype(ml_dtypes.float8_e4m3fn),
        "empty": np.zeros((0, 3), np.float32),
        "flag": np.array([True, False]),
    }


def plain(tensors):
    """Without what npz cannot hold."""
    return {name: array for name, array in tensors.items() if array.dtype.kind in "biuf"}


def nested(tensors):
    root = {}
    for name, array in tensors.items():
        *above, last = name.split(".")
        node = root
        for key in above:
            node = node.setdefault(key, {})
        node[last] = array
    return root


def write_safetensors(path, tensors):
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt", "of": "é"})


def write_sharded(path, tensors):
    path.mkdir()
    names = list(tensors)
    parts = names[::2], names[1::2]
    where = {}
    for i, part in enumerate(parts):
        shard = f"model-0000{i + 1}-of-00002.safetensors"
        write_safetensors(path / shard, {name: tensors[name] for name in part})
        where |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def write_orbax(path, tensors):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, nested(tensors))


WRITERS = {
    ".safetensors": write_safetensors,
    ".npz": lambda path, tensors: np.savez(path, **tensors),
    ".msgpack": lambda path, tensors: path.write_bytes(
        flax.serialization.msgpack_serialize(nested(tensors))
    ),
    "_sharded": write_sharded,
    "_orbax": write_orbax,
}


def tensors_for(kind):
    tensors = plain(model()) if kind == ".npz" else model()
    return {n: a for n, a in tensors.items() if a.size} if kind == "_orbax" else tensors


def contents(path):
    with io.open_checkpoint(path) as checkpoint:
        return {tensor.name: checkpoint.read(tensor) for tensor in checkpoint.tensors}


def by_path(tensors):
    return {name.replace(".", "/"): array for name, array in tensors.items()}


def same(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name


def x64():
    """JAX with float64; old versions keep the switch elsewhere."""
    place = jax if hasattr(jax, "enable_x64") else jax.experimental
    return place.enable_x64(True)


def pruned_whole(tensors, spec, **choices):
    """What the library makes of all tensors at once."""
    with x64():
        out, mask = jp.prune(by_path(tensors), spec, **choices)
    return {k: np.asarray(v) for k, v in out.items()}, mask


def pruned_file(source, target, spec, **choices):
    with io.open_checkpoint(source) as checkpoint:
        return io.prune_checkpoint(checkpoint, target, spec, **choices)


def jp_leaves(tree):
    from jaxprune._tree import leaves

    return leaves(tree)


def rubbish(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")]

"""How arrays lie over devices.

Kernels are written for Auto mesh axes, where an array may be reshaped freely and the compiler moves
what it must (for a count, one number). `on_any_mesh` runs them under Explicit axes as well.

How far JAX carries a sharding through a computation is not promised, nor is how processes exchange
values: `tests/test_sharding.py` and `tests/processes/` check it on 8 devices. Tried on JAX 0.7.2,
0.10.2 and 0.12.0.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxprune._tree import leaves, rebuild

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


def on_any_mesh(
    kernel: Callable[_Params, _Result], like: Callable[..., Any] | None = None
) -> Callable[_Params, _Result]:
    """Runs `kernel` with every mesh axis Auto, whatever the types of its arguments say.

    To be called under jit.

    Args:
        kernel: A function of trees of arrays.
        like: From the kernel's positional arguments, a tree like its result: the arrays that the
            results are laid out as. Without it every result of the rank of the first array passed
            is laid out as that array is, and others lie on every device.

    Returns:
        The kernel.
    """

    @functools.wraps(kernel)
    def run(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        values = [leaf.value for leaf in leaves((args, kwargs))]
        arrays = [value for value in values if isinstance(value, jax.Array)]
        meshes = [jax.typeof(array).sharding for array in arrays]
        if not any(AxisType.Explicit in sharding.mesh.axis_types for sharding in meshes):
            return kernel(*args, **kwargs)

        def call(*arrays: jax.Array) -> _Result:
            passed = iter(arrays)
            mixed = [next(passed) if isinstance(value, jax.Array) else value for value in values]
            args_, kwargs_ = rebuild((args, kwargs), mixed)
            return kernel(*args_, **kwargs_)

        result = jax.eval_shape(
            call, *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)
        )
        models = like(*args) if like else jax.tree.map(lambda _: arrays[0], result)
        out = jax.tree.map(
            lambda model, value: _fitted(jax.typeof(model).sharding, value), models, result
        )
        sharded: _Result = jax.sharding.auto_axes(call, out_sharding=out)(*arrays)
        return sharded

    return run


def placed(values: jax.Array, like: Any) -> jax.Array:
    """`values` laid out as the array `like`, of the same rank, as far as their lengths allow it."""
    if isinstance(like, jax.core.Tracer):
        sharding = jax.typeof(like).sharding
        if AxisType.Explicit in sharding.mesh.axis_types:
            return jax.sharding.reshard(values, _fitted(sharding, values))
        whole = jax.device_count() == 1 or AxisType.Manual in sharding.mesh.axis_types
        return values if whole or like.shape != values.shape else _tied(values, like)
    if not isinstance(like, jax.Array) or isinstance(values, jax.core.Tracer):
        return values
    wanted = like.sharding
    if isinstance(wanted, NamedSharding):
        wanted = _fitted(wanted, values)
    there = values.sharding.is_equivalent_to(wanted, values.ndim)
    return values if there else jax.device_put(values, wanted)


def local_parts(array: jax.Array) -> Iterator[tuple[tuple[int, ...], np.ndarray[Any, Any]]]:
    """What this process holds of `array`: parts with the index of their first element.

    Over all processes together each element comes once.
    """
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            yield tuple(axis.start or 0 for axis in shard.index), np.asarray(shard.data)


def of_all_processes(
    rows: np.ndarray[Any, Any], arrays: Sequence[jax.Array]
) -> np.ndarray[Any, Any]:
    """The int32 `rows` of every process, if one of `arrays` is spread over several.

    Each process must pass as many.
    """
    if all(array.is_fully_addressable for array in arrays):
        return rows
    gathered = np.asarray(multihost_utils.process_allgather(rows))
    return gathered.reshape(-1, rows.shape[-1])


def _tied(values: jax.Array, like: jax.Array) -> jax.Array:
    """`values`, as the result of an elementwise operation with `like`.

    On Auto axes only the compiler knows how a tracer is laid out, and it lays out the result of an
    elementwise operation as its operands. The barrier keeps it from seeing that nothing changes.
    """
    never = (like != 0) & lax.optimization_barrier(jnp.bool_(False))
    return jnp.where(never, jnp.zeros((), values.dtype), values)


def _fitted(sharding: NamedSharding, value: Any) -> NamedSharding:
    """`sharding` on the axes of `value` that its devices divide."""
    same_rank = len(sharding.spec) <= value.ndim
    spec = [*(sharding.spec if same_rank else ()), *[None] * value.ndim][: value.ndim]

    def devices(names: Any) -> int:
        names = names if isinstance(names, tuple) else (names,)
        return math.prod(sharding.mesh.shape[name] for name in names if name is not None)

    kept = [
        names if n % devices(names) == 0 else None
        for names, n in zip(spec, value.shape, strict=True)
    ]
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))

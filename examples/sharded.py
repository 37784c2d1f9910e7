"""A kernel that is sharded over eight devices gets the same mask as on one device."""

import os

# Simulates eight devices. JAX reads these variables when it is imported, so they come first.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxprune as jp


def main():
    kernel = jax.random.normal(jax.random.key(0), (1024, 512))
    specs = [jp.Unstructured(0.9), jp.Unstructured(0.9, per="output"), jp.NM(2, 4, axis="input")]

    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type, axis_type))
        spread = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec("data", "model")))
        print(f"{len(spread.sharding.device_set)} devices, {axis_type.name} axes")

        for spec in specs:
            _, alone = jp.prune(kernel, spec)
            pruned, together = jp.prune(spread, spec)
            assert together.sharding.is_equivalent_to(spread.sharding, together.ndim)
            assert pruned.sharding.is_equivalent_to(spread.sharding, pruned.ndim)
            assert jnp.array_equal(jax.device_get(alone), jax.device_get(together))
            print(f"  {spec}: {int(together.sum()):,} of {kernel.size:,} kept, same mask")

    # If each device pruned its own shard, each shard would have its own budget.
    shards = [jax.device_put(shard.data, jax.devices()[0]) for shard in spread.addressable_shards]
    by_itself = [jp.prune(shard, 0.9)[1] for shard in shards]
    _, together = jp.prune(spread, 0.9)
    differ = sum(
        int((jax.device_get(shard.data) != jax.device_get(own)).sum())
        for shard, own in zip(together.addressable_shards, by_itself, strict=True)
    )
    print(f"If each device pruned its own shard, {differ:,} mask entries would differ.")


if __name__ == "__main__":
    main()

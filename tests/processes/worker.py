"""One of several processes: prunes what is spread over all of them, and writes down what it got.

python -m tests.processes.worker PROCESS PROCESSES ADDRESS FOLDER
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp

SPECS = {
    "leaf": {"first": jp.Unstructured(0.59375)},
    "global": jp.Unstructured(0.59375, per="global", min_nonzero=20),
    "axis": {"first": jp.Unstructured(0.59375, per=0)},
    "n:m": {"first": jp.NM(2, 4)},
    "channels": {"first": jp.Channels(0.59375, axis=-1)},
}
SHAPE = (16, 16)


def weights():
    """Whole numbers, so that many tie, and no sum depends on its order."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(-90, 91, SHAPE).astype(np.float32) for name in ("first", "second")}


def batch():
    return np.random.default_rng(1).integers(-3, 4, SHAPE).astype(np.float32)


def loss(params, x):
    return jnp.mean(jnp.abs(x @ params["first"])) + jnp.mean(jnp.abs(params["second"]))


def masks(params):
    return {name: jp.make_mask(params, spec, where=jp.any_leaf) for name, spec in SPECS.items()}


def numbers(params, mask, x):
    """What a person would read, as text."""
    measure = {"sparsities": [0.5], "spec": {"first": jp.NM(2, 4)}, "where": jp.any_leaf}
    return {
        "top scores": str(jp.top_scores(params, 20)),
        "report": str(jp.report(jp.apply_mask(params, mask), mask)),
        "sensitivity": str(jp.sensitivity(loss, params, inputs=(x,), **measure)),
    }


def model(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def with_data(params, x):
    """Statistics of a batch that is spread over all devices, and what Wanda makes of them."""
    stats = jp.calibrate(model, params, [(x,)], gather="gram")
    spec = jp.NM(2, 4, axis="input")
    pruned, mask = jp.prune_with_data(model, params, [(x,)], spec, method=jp.Wanda)
    made = {f"gram {name}": stats.gram(name) for name in params}
    for name, leaf in params.items():
        assert pruned[name].sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
        made |= {f"pruned {name}": pruned[name], f"data mask {name}": mask[name]}
    return made


def refusal(params, x):
    """What `sensitivity` says of a loss that closes over its batch."""
    try:
        jp.sensitivity(lambda p: loss(p, x), params, [0.5], {"first": jp.NM(2, 4)})
    except jp.PruningError as error:
        return str(error)


def restored(params, everywhere, folder):
    """Whether an optimizer's state comes back from Orbax as it was."""
    tx = jp.sparsify(optax.adam(0.1), 0.5, schedule=jp.one_shot(at=2), where=jp.any_leaf)
    state = jax.tree.map(
        lambda leaf: leaf if leaf.ndim else jax.device_put(leaf, everywhere), tx.init(params)
    )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        again = checkpointer.restore(folder / "state", state)
    same = jax.tree.map(
        lambda a, b: a.sharding == b.sharding and bool(jax.jit(jnp.array_equal)(a, b)), state, again
    )
    return all(jax.tree.leaves(same))


def main(process, processes, address, folder):
    jax.distributed.initialize(address, processes, process)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    rows, columns = NamedSharding(mesh, P("data")), NamedSharding(mesh, P(None, "data"))
    everywhere = NamedSharding(mesh, P())
    host = weights()
    params = {
        name: jax.make_array_from_callback(SHAPE, sharding, host[name].__getitem__)
        for name, sharding in (("first", rows), ("second", columns))
    }
    x = jax.make_array_from_process_local_data(rows, np.split(batch(), processes)[process])

    found = {}
    for how, made in (("eager", masks(params)), ("jit", jax.jit(masks)(params))):
        for spec, tree in made.items():
            for name, mask in tree.items():
                if mask is not None:
                    assert mask.sharding.is_equivalent_to(params[name].sharding, mask.ndim)
                    whole = jax.device_put(mask, everywhere)
                    found[f"{how} {spec} {name}"] = np.asarray(whole.addressable_data(0))
    for name, value in with_data(params, x).items():
        found[name] = np.asarray(jax.device_put(value, everywhere).addressable_data(0))
    np.savez(folder / f"{process}.npz", **found)
    said = {
        **numbers(params, made["global"], x),
        "refusal": refusal(params, x),
        "restored": restored(params, everywhere, folder),
    }
    (folder / f"{process}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4]))

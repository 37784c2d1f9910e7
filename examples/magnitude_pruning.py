"""Magnitude pruning of one layer, Dense(16 -> 8): scores, two masks, and the pruned layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxprune as jp


def main():
    layer = nn.Dense(8)
    inputs = jax.random.normal(jax.random.key(1), (256, 16))
    params = layer.init(jax.random.key(0), inputs)["params"]
    kernel = params["kernel"]  # 16 inputs x 8 outputs
    print(f"Dense(16 -> 8): a kernel of {kernel.size} weights, and a bias that stays dense.\n")

    print("1. Scores: how important is each weight?\n")
    print("   metric     min     max    mean  median     std")
    for name, metric in {"L1: |w|": jp.L1(), "L2: w^2": jp.L2()}.items():
        numbers = jp.stats(jp.importance(kernel, metric))
        print(f"   {name}" + "".join(f"{float(number):8.4f}" for number in numbers))
    best = jp.top_scores(jp.importance(params, jp.L1()), 1)[0]
    print(f"   The largest weight is {best.path}{list(best.index)}: |w| = {best.score:.4f}.\n")

    print("2. Masks: which weights are kept?\n")
    scores = jp.importance(params, jp.L1())
    half = jp.make_mask(scores, jp.Unstructured(0.5))
    two_of_four = jp.make_mask(scores, jp.NM(2, 4, axis="input"))
    draw(half["kernel"], two_of_four["kernel"])

    # Inputs are axis 0: count the kept weights in each group of 4 along it.
    kept = two_of_four["kernel"].reshape(4, 4, 8).sum(axis=1)
    assert (kept == 2).all(), "a group does not keep exactly 2"
    print(f"   Group check: each of the {kept.size} groups of 4 on the right keeps exactly 2.\n")

    print("3. Result: what changes?\n")
    print("   variant           nonzero  sparsity  magnitude kept  output error  pattern found")
    print("   " + "-" * 82)
    dense = layer.apply({"params": params}, inputs)
    variants = {
        "dense": params,
        "unstructured 50 %": jp.apply_mask(params, half),
        "2:4 along inputs": jp.apply_mask(params, two_of_four),
    }
    for name, pruned in variants.items():
        (row,) = [row for row in jp.report(pruned).rows if row.in_scope]
        magnitude = jnp.abs(pruned["kernel"]).sum() / jnp.abs(kernel).sum()
        error = jnp.linalg.norm(layer.apply({"params": pruned}, inputs) - dense)
        print(
            f"   {name:17} {row.count.nonzero:3} / {row.count.total} {row.count.sparsity:9.1%}"
            f" {magnitude:15.1%} {error / jnp.linalg.norm(dense):13.1%}  {row.pattern}"
        )
    print("\n   Not trained after pruning: fine-tuning would start from this output error.")
    print("   A mask by itself makes nothing smaller or faster: the arrays keep their shapes.")


def draw(left, right):
    print("   8 outputs across, 16 inputs down; # is kept\n")
    print("   unstructured 50 %        2:4 along inputs")
    for i, rows in enumerate(zip(left, right, strict=True)):
        if i % 4 == 0:
            print()
        left_row, right_row = (" ".join("#" if kept else "." for kept in row) for row in rows)
        print(f"   {left_row}          {right_row}")
    print()


if __name__ == "__main__":
    main()

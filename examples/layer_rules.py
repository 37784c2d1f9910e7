"""Rules for different layers, with a dry run, and one budget shared out by the layers' shapes."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxprune as jp


class Tagger(nn.Module):
    """Classifies each token after one attention layer and one MLP."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(1000, 64, name="embed")(tokens)
        x += nn.MultiHeadDotProductAttention(num_heads=4, name="attention")(nn.LayerNorm()(x))
        x += nn.Dense(64, name="down")(nn.gelu(nn.Dense(256, name="up")(x)))
        return nn.Dense(10, name="head")(x)


RULES = {
    "head": None,  # small and sensitive, so it stays dense
    # These kernels are [in, heads, head_dim], so their input axis is 0.
    re.compile("attention/(query|key|value)"): jp.NM(2, 4, axis=0),
    "up": jp.Columns(0.25),  # whole hidden units
    "*": jp.Unstructured(0.8),  # all other weights
}


def main():
    tokens = jnp.zeros((2, 16), int)
    params = Tagger().init(jax.random.key(0), tokens)["params"]

    print("A dry run: which rule takes which leaf, and why the others stay dense.\n")
    print(jp.plan(params, RULES))

    pruned, mask = jp.prune(params, RULES)
    print("\nThe result. (The report looks for N:M patterns along the last two axes only.)\n")
    print(jp.report(pruned, mask))

    # Erdős–Rényi-kernel (ERK): large layers become sparser than small ones.
    sparsities = jp.allocate(params, 0.9, "erk", overrides={"head": 0.5})
    pruned, mask = jp.prune(params, sparsities)
    print("\n90 % in total, shared out by ERK, with the head fixed at 50 %.\n")
    print(jp.report(pruned, mask))


if __name__ == "__main__":
    main()

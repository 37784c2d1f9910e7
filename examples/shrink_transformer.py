"""Heads and hidden features are cut out of a transformer, each at a rate of its own (plain JAX)."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp

WORDS, WIDTH, HEADS, HIDDEN, LAYERS = 1000, 128, 8, 512, 4


def norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6) * scale


def model(params, tokens):
    x = params["embedding"][tokens]
    for layer in params["layers"]:
        y = norm(x, layer["norm_1"])
        q, k, v = (jnp.einsum("btd,dhk->bthk", y, layer["attention"][name]) for name in "qkv")
        weights = jnp.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5
        causal = jnp.tril(jnp.ones(weights.shape[-2:], bool))
        weights = jax.nn.softmax(jnp.where(causal, weights, -1e9))
        y = jnp.einsum("bhts,bshk->bthk", weights, v)
        x = x + jnp.einsum("bthk,hkd->btd", y, layer["attention"]["out"])
        y = norm(x, layer["norm_2"])
        x = (
            x
            + (jax.nn.silu(y @ layer["mlp"]["gate"]) * (y @ layer["mlp"]["up"]))
            @ layer["mlp"]["down"]
        )
    return norm(x, params["norm"]) @ params["embedding"].T


def initial(random):
    def draw(*shape):
        return jnp.asarray(random.normal(size=shape) * 0.05, jnp.float32)

    size = WIDTH // HEADS

    def layer():
        heads = {name: draw(WIDTH, HEADS, size) for name in "qkv"} | {
            "out": draw(HEADS, size, WIDTH)
        }
        mlp = {"gate": draw(WIDTH, HIDDEN), "up": draw(WIDTH, HIDDEN), "down": draw(HIDDEN, WIDTH)}
        ones = {"norm_1": jnp.ones(WIDTH), "norm_2": jnp.ones(WIDTH)}
        return {"attention": heads, "mlp": mlp} | ones

    layers = [layer() for _ in range(LAYERS)]
    return {"embedding": draw(WORDS, WIDTH), "layers": layers, "norm": jnp.ones(WIDTH)}


def main():
    random = np.random.default_rng(0)
    params, tokens = initial(random), random.integers(0, WORDS, (4, 64))
    deps = jp.dependencies(model, params, tokens)
    print(deps)

    rules = {"embedding": None, "*:heads": 0.5, "*:head_dim": None, "*/mlp": 0.25}
    cut = deps.choose(params, rules)
    print(f"\n{deps.cost(cut)}")
    small, faster = deps.shrink(params, cut), deps.function(cut)
    print("Queries of layer 0:", small["layers"][0]["attention"]["q"].shape)

    print(f"It differs from the masked model by {deps.verify(params, cut, tokens):.0e}, relative.")
    # Other shapes of inputs are traced again.
    print("One sequence of eight tokens:", faster(small, tokens[:1, :8]).shape)


if __name__ == "__main__":
    main()

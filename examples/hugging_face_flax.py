"""The Llama folders of hugging_face.py in Flax: the same weights, zeros and logits."""

import importlib.util
import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

import jaxprune as jp
from jaxprune import io

DENSE, PRUNED = Path("demo/llama"), Path("demo/llama-2of4")


def rotate(x, theta):
    """Rotary position embedding of queries or keys, [batch, length, heads, size]."""
    frequencies = theta ** (-jnp.arange(0, x.shape[-1], 2) / x.shape[-1])
    angles = jnp.arange(x.shape[1])[:, None, None] * frequencies
    first, second = jnp.split(x, 2, axis=-1)
    turned = first * jnp.cos(angles) - second * jnp.sin(angles)
    return jnp.concatenate([turned, second * jnp.cos(angles) + first * jnp.sin(angles)], axis=-1)


class Layer(nn.Module):
    config: dict

    @nn.compact
    def __call__(self, x):
        c, eps = self.config, self.config["rms_norm_eps"]
        width, theta = c["hidden_size"], (c.get("rope_parameters") or c)["rope_theta"]
        size = width // c["num_attention_heads"]

        def dense(x, features, name):
            return nn.Dense(features, use_bias=False, name=name)(x)

        def heads(name, count):
            return dense(y, count * size, f"self_attn.{name}").reshape(*y.shape[:2], count, size)

        y = nn.RMSNorm(eps, name="input_layernorm")(x)
        query = rotate(heads("q_proj", c["num_attention_heads"]), theta)
        key = rotate(heads("k_proj", c["num_key_value_heads"]), theta)
        value = heads("v_proj", c["num_key_value_heads"])
        y = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x += dense(y.reshape(x.shape), width, "self_attn.o_proj")

        y = nn.RMSNorm(eps, name="post_attention_layernorm")(x)
        gate = nn.silu(dense(y, c["intermediate_size"], "mlp.gate_proj"))
        up = dense(y, c["intermediate_size"], "mlp.up_proj")
        return x + dense(gate * up, width, "mlp.down_proj")


class Llama(nn.Module):
    config: dict

    @nn.compact
    def __call__(self, tokens):
        c = self.config
        x = nn.Embed(c["vocab_size"], c["hidden_size"], name="model.embed_tokens")(tokens)
        for i in range(c["num_hidden_layers"]):
            x = Layer(c, name=f"model.layers.{i}")(x)
        x = nn.RMSNorm(c["rms_norm_eps"], name="model.norm")(x)
        return nn.Dense(c["vocab_size"], use_bias=False, name="lm_head")(x)


def flax_params(file):
    """The tensors of a file under Flax's names, kernels turned from [out, in] to [in, out]."""
    params = {}
    with io.open_checkpoint(file) as checkpoint:
        for tensor in checkpoint.tensors:
            module = re.sub(r"(layers\.\d+)\.", r"\1/", tensor.name.removesuffix(".weight"))
            value = jnp.asarray(checkpoint.read(tensor))
            leaf = "scale" if value.ndim == 1 else "kernel"
            leaf = "embedding" if module.endswith("embed_tokens") else leaf
            params[*module.split("/"), leaf] = value.T if leaf == "kernel" else value
    return unflatten_dict(params)


def main():
    if not PRUNED.exists():
        print(f"Skipped: {PRUNED} does not exist; `python examples/hugging_face.py` makes it.")
        return

    from_file = flax_params(PRUNED / "model.safetensors")
    rules = {"lm_head": None, "*": jp.NM(2, 4, axis="input")}
    pruned, mask = jp.prune(flax_params(DENSE / "model.safetensors"), rules)
    print(jp.report(pruned, mask))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, pruned, from_file))
    print("\nThe command line made the same zeros in the file.")

    model = Llama(json.loads((PRUNED / "config.json").read_text()))
    tokens = jnp.array([[3, 4, 5, 6, 7, 8]])
    logits = model.apply({"params": pruned}, tokens)

    if importlib.util.find_spec("transformers"):
        import torch
        from transformers import AutoModelForCausalLM

        with torch.no_grad():
            theirs = AutoModelForCausalLM.from_pretrained(PRUNED)(torch.tensor(tokens.tolist()))
        difference = jnp.abs(logits - jnp.asarray(theirs.logits.numpy())).max()
        assert difference < 1e-3
        print(f"Flax's logits equal those of transformers within {difference:.0e}.")


if __name__ == "__main__":
    main()

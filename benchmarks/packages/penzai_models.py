"""Penzai's models: parameters are taken out of a model, and put into it again."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from penzai import pz
from penzai.models.simple_mlp import MLP
from penzai.models.transformer.variants import gpt_neox
from penzai.models.transformer.variants.llamalike_common import (
    AttentionTypeGlobalCausal,
    AttentionTypeSlidingWindowCausal,
    LlamalikeTransformerConfig,
    build_llamalike_transformer,
)

from benchmarks.packages.model import Layout, PackageModel, images, tokens

_WORDS = 8192


def models() -> dict[str, Callable[[], PackageModel]]:
    """The models by name."""
    return {
        "MLP": _mlp,
        "Llama, 12 layers of 768": lambda: _decoder(_config("swiglu")),
        "Gemma 2, 6 layers of 512": lambda: _decoder(_gemma()),
        "Mistral, 12 layers of 768 stacked": lambda: _decoder(
            dataclasses.replace(
                _config("swiglu"),
                attention_type=AttentionTypeSlidingWindowCausal(16),
                use_layer_stack=True,
            )
        ),
        "GPT-NeoX, 6 layers of 512": _neox,
    }


def _config(mlp: Any) -> LlamalikeTransformerConfig:
    return LlamalikeTransformerConfig(
        num_kv_heads=4,
        query_head_multiplier=3,
        embedding_dim=768,
        projection_dim=64,
        mlp_hidden_dim=2048,
        num_decoder_blocks=12,
        vocab_size=_WORDS,
        mlp_variant=mlp,
        tie_embedder_and_logits=False,
    )


def _gemma() -> LlamalikeTransformerConfig:
    return dataclasses.replace(
        _config("geglu_approx"),
        query_head_multiplier=2,
        embedding_dim=512,
        num_decoder_blocks=6,
        tie_embedder_and_logits=True,
        attention_type=(AttentionTypeSlidingWindowCausal(16), AttentionTypeGlobalCausal()),
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        final_logit_softcap=30.0,
        attn_logits_soft_cap=50.0,
    )


def _mlp() -> PackageModel:
    x = images(16, 784)
    return _as_function(
        lambda key: MLP.from_config(key, [784, 512, 256, 10]),
        lambda x: pz.nx.wrap(x).tag("batch", "features"),
        x,
    )


def _decoder(config: LlamalikeTransformerConfig) -> PackageModel:
    return _as_function(
        lambda key: build_llamalike_transformer(config, key), _words, tokens(_WORDS, 2, 32)
    )


def _neox() -> PackageModel:
    config = gpt_neox.GPTNeoXTransformerConfig(
        num_attention_heads=8,
        embedding_dim=512,
        projection_dim=64,
        mlp_hidden_dim=2048,
        num_decoder_blocks=6,
        vocab_size=_WORDS,
        activation_fn="gelu_approx",
        rope_subset_size=16,
        rope_wavelength=10_000.0,
        layernorm_epsilon=1e-5,
        parameter_dtype=jnp.float32,
        activation_dtype=jnp.float32,
    )
    return _as_function(
        lambda key: gpt_neox.build_gpt_neox_transformer(config, key), _words, tokens(_WORDS, 2, 32)
    )


def _words(x: jax.Array) -> Any:
    return pz.nx.wrap(x).tag("batch", "seq")


def _as_function(
    build: Callable[[jax.Array], Any], named: Callable[[jax.Array], Any], x: jax.Array
) -> PackageModel:
    """A model whose parameters are a dictionary of Penzai's named arrays."""
    model = build(jax.random.key(0))
    skeleton, variables = pz.unbind_params(model, freeze=True)
    of_label = {str(variable.label): variable for variable in variables}
    params = {label: variable.value for label, variable in of_label.items()}

    def forward(params: dict[str, Any], x: jax.Array) -> Any:
        bound = [
            dataclasses.replace(of_label[label], value=value) for label, value in params.items()
        ]
        result = pz.bind_variables(skeleton, bound)(named(x))
        return result.unwrap(*result.named_shape)

    return PackageModel(forward, params, (x,), _layout(model))


def _layout(model: Any) -> Layout:
    """What Penzai's linear layers say themselves: the names of the axes that they sum over."""
    layout = {}
    for layer in pz.select(model).at_instances_of(pz.nn.Linear).get_sequence():
        names = [*layer.weights.value.named_axes]
        inside, outside = (
            tuple(names.index(name) for name in of if name in names)
            for of in (layer.in_axis_names, layer.out_axis_names)
        )
        if inside:  # a scale is a layer that sums over nothing
            layout[f"{layer.weights.label}/data_array"] = inside, outside
    return layout

"""Flax classes of transformers 4 (and of diffusers), from configurations, with random weights."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import transformers

from benchmarks.packages.model import Layout, PackageModel, images, tokens, window_squares
from jaxprune._tree import leaves

_WORDS = 8192


def models() -> dict[str, Callable[[], PackageModel]]:
    """The models by name."""
    return {
        "BERT, 12 layers of 768": lambda: _language("BertForSequenceClassification"),
        "GPT-2, 12 layers of 768": lambda: _language("GPT2LMHeadModel"),
        "Llama, 8 layers of 512, grouped queries": lambda: _language(
            "LlamaForCausalLM",
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
        ),
        "T5-small": _t5,
        "ViT-B/16": lambda: _vision("ViTForImageClassification"),
        "ResNet-50": lambda: _vision("ResNetForImageClassification"),
        "DINOv2, 12 layers of 384": lambda: _vision(
            "Dinov2ForImageClassification", hidden_size=384, num_attention_heads=6, image_size=224
        ),
        "Whisper-tiny": _whisper,
        "diffusers' UNet": _unet,
    }


def _language(name: str, **sizes: Any) -> PackageModel:
    cls = getattr(transformers, f"Flax{name}")
    return _as_function(cls, cls.config_class(vocab_size=_WORDS, **sizes), tokens(_WORDS, 2, 32))


def _vision(name: str, **sizes: Any) -> PackageModel:
    cls = getattr(transformers, f"Flax{name}")
    return _as_function(cls, cls.config_class(**sizes), images(1, 3, 224, 224))


def _t5() -> PackageModel:
    config = transformers.T5Config(vocab_size=_WORDS)
    words = tokens(_WORDS, 2, 24)
    model = _as_function(
        transformers.FlaxT5ForConditionalGeneration,
        config,
        words,
        call=lambda model, params, words: (
            model(words, decoder_input_ids=words[:, :16], params=params).logits
        ),
    )
    # T5 does not divide by the root of head_dim: it draws its queries smaller instead.
    return model._replace(quiet="/q/")


def _whisper() -> PackageModel:
    config = transformers.WhisperConfig(
        d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6,
        decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536,
    )  # fmt: skip
    return _as_function(
        transformers.FlaxWhisperForConditionalGeneration,
        config,
        images(1, 80, 3000),
        call=lambda model, params, sound: (
            model(sound, decoder_input_ids=_from(sound), params=params).logits
        ),
    )


def _from(sound: jax.Array) -> jax.Array:
    """Eight words that depend on data, as all that calibration looks at does."""
    return (sound[:, 0, :8] * 1000).astype(jnp.int32)


def _unet() -> PackageModel:
    """A denoiser of pictures, with skips, group norm, and attention to a text."""
    import diffusers

    model = diffusers.FlaxUNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128, 256, 256),
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=128,
    )
    params = jax.eval_shape(model.init_weights, jax.random.key(0))
    inputs = images(1, 4, 16, 16), images(1, 8, 128)

    def forward(params: Any, x: jax.Array, text: jax.Array) -> Any:
        return model.apply({"params": params}, x, jnp.array([3]), text).sample

    return _with_layout(forward, params, inputs)


def _as_function(
    cls: Any, config: Any, x: jax.Array, call: Callable[..., Any] | None = None
) -> PackageModel:
    model = cls(config, _do_init=False)

    def forward(params: Any, x: jax.Array) -> Any:
        return model(x, params=params, train=False)[0] if call is None else call(model, params, x)

    return _with_layout(forward, model.params_shape_tree, (x,))


def _with_layout(forward: Callable[..., Any], params: Any, inputs: tuple[Any, ...]) -> PackageModel:
    layout: Layout = {}
    before = "params/" if "batch_stats" in params else ""

    def note(path: str, module: Any, _: Any) -> None:
        layout[path] = _axes(module)

    with _intercepted(note, before):
        jax.eval_shape(forward, params, *inputs)
    # A tied embedding is given to a layer that is in no tree.
    paths = {leaf.path for leaf in leaves(params)}
    layout = {path: axes for path, axes in layout.items() if path in paths}

    def squares(params: Any, *inputs: Any) -> dict[str, np.ndarray]:
        seen: dict[str, Any] = {}

        def look(path: str, module: Any, read: Any) -> None:
            if isinstance(module, nn.Conv):
                padding = module.padding
                padding = padding.lower() if isinstance(padding, str) else _pairs(padding, module)
                strides = np.broadcast_to(module.strides or 1, len(module.kernel_size))
                one = window_squares(read, tuple(module.kernel_size), tuple(strides), padding)
                one = one[..., None]
            else:
                flat = np.asarray(read).reshape(-1, read.shape[-1])
                one = window_squares(flat, (), (), "valid")
                one = one[None] if _axes(module)[0] == (1,) else one[:, None]
            seen[path] = seen.get(path, 0) + one

        with _intercepted(look, before):
            forward(params, *inputs)
        return {path: one for path, one in seen.items() if path in layout}

    return PackageModel(forward, params, inputs, layout, squares)


def _pairs(padding: Any, module: nn.Conv) -> list[tuple[int, int]]:
    """How much is added before and behind each axis of space."""
    each = [padding] * len(module.kernel_size) if isinstance(padding, int) else padding
    return [(one, one) if isinstance(one, int) else tuple(one) for one in each]


def _axes(module: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """What the documentation says of a layer's kernel."""
    if type(module).__name__ == "FlaxConv1D":  # that of GPT-2, whose kernels are [out, in]
        return (1,), (0,)
    if isinstance(module, nn.Conv):
        rank = len(module.kernel_size)
        return tuple(range(rank + 1)), (rank + 1,)
    return ((0,), (1,)) if isinstance(module, nn.Dense) else None


def _intercepted(look: Callable[[str, Any, Any], None], before: str) -> Any:
    """While a model runs, shows the layers that it calls, and what they are given."""

    def step(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__" and _axes(context.module) is not None:
            look(before + "/".join((*context.module.path, "kernel")), context.module, args[0])
        return call(*args, **kwargs)

    return nn.intercept_methods(step)

"""Which leaves are pruned: names of public models, and what changes the default."""

import itertools
import re

import jax
import jax.numpy as jnp
import pytest

import jaxprune as jp

# Parameters of public models as their frameworks name them. {a,b} stands for both, as in a shell.
WEIGHTS = {
    "BERT, Linen": """
        bert/encoder/layer/0/attention/self/{query,key,value}/kernel
        bert/encoder/layer/0/attention/output/dense/kernel
        bert/encoder/layer/0/{intermediate,output}/dense/kernel
        bert/pooler/dense/kernel cls/predictions/transform/dense/kernel
        cls/seq_relationship/kernel classifier/kernel qa_outputs/kernel
    """,
    "BERT and its relatives, PyTorch": """
        bert/encoder/layer/0/attention/self/{query,key,value}/weight
        bert/encoder/layer/0/attention/output/dense/weight bert/pooler/dense/weight
        cls/predictions/decoder/weight cls/predictions/transform/dense/weight
        albert/encoder/embedding_hidden_mapping_in/weight
        electra/embeddings_project/weight mobilebert/embeddings/embedding_transformation/weight
        deberta/encoder/layer/0/attention/self/{query_proj,key_proj,pos_key_proj}/weight
        transformer/layer/0/{q,k,v,o,r} mask_transform/0/weight
    """,
    "GPT-2, GPT-J, GPT-NeoX": """
        transformer/h/0/attn/{c_attn,c_proj}/kernel transformer/h/0/mlp/{c_fc,c_proj}/kernel
        h/0/attn/{c_attn,c_proj}/weight h/0/mlp/{c_fc,c_proj}/weight lm_head/kernel lm_head/weight
        transformer/h/0/attn/{q_proj,k_proj,v_proj,out_proj}/kernel
        gpt_neox/layers/0/attention/{query_key_value,dense}/weight
        gpt_neox/layers/0/mlp/{dense_h_to_4h,dense_4h_to_h}/weight embed_out/weight
    """,
    "T5": """
        encoder/block/0/layer/0/SelfAttention/{q,k,v,o}/kernel
        decoder/block/0/layer/1/EncDecAttention/{q,k,v,o}/weight
        encoder/block/0/layer/1/DenseReluDense/{wi,wi_0,wi_1,wo}/kernel
        encoder/layers_0/attention/{query,key,value,out}/kernel
        encoder/layers_0/mlp/{wi_0,wi_1,wo}/kernel decoder/logits_dense/kernel
        decoder/layers_0/encoder_decoder_attention/query/kernel
        encoder/layers_1/mlp/expert/{wi,wo}/kernel
    """,
    "Llama, Mistral, Qwen, Phi": """
        model/layers/0/self_attn/{q_proj,k_proj,v_proj,o_proj,qkv_proj}/weight
        model/layers/0/mlp/{gate_proj,up_proj,down_proj,gate_up_proj}/weight lm_head/weight
        model/layers/0/self_attn/{q_proj,k_proj,v_proj,o_proj}/kernel
        layers/0/attention/{wq,wk,wv,wo}/weight layers/0/feed_forward/{w1,w2,w3}/weight
        output/weight model/layers/0/block_sparse_moe/experts/0/{w1,w2,w3}/weight
        model/layers/0/mlp/experts/{gate_up_proj,down_proj}
        model/layers/0/mlp/shared_expert/{gate_proj,up_proj,down_proj}/weight
        model/layers/0/self_attn/{kv_a_proj_with_mqa,kv_b_proj,q_a_proj}/weight
    """,
    "Gemma": """
        transformer/layer_0/attn/{q_einsum,kv_einsum,attn_vec_einsum,qkv_einsum}/w
        transformer/layer_0/mlp/{gating_einsum,linear} transformer/layer_0/mlp/linear/w
        layers/0/mlp/{gate_proj,up_proj,down_proj}/kernel
        embedder/mm_input_projection/w
    """,
    "MaxText, Praxis": """
        decoder/layers/self_attention/{query,key,value,out}/kernel
        decoder/layers/mlp/{wi_0,wi_1,wo}/kernel decoder/layers/MoeBlock_0/{wi_0,wi_1,wo}
        lm/softmax/logits_ffn/linear/w
        lm/transformer/repeat/sub/x_layers_0/self_attention/combined_qkv/w
        lm/transformer/repeat/sub/x_layers_0/self_attention/post/w
        lm/transformer/repeat/sub/x_layers_0/ff_layer/{ffn_layer1,ffn_layer2}/linear/w
    """,
    "Haiku": """
        linear/w mlp/~/{linear_0,linear_1}/w conv2_d/w resnet50/~/initial_conv/w
        res_net50/~/block_group_0/~/block_0/~/{conv_0,shortcut_conv}/w
        transformer/~/multi_head_attention/{query,key,value,linear}/w lstm/linear/w
        evoformer/msa_row_attention/attention/{query_w,key_w,value_w,gating_w,output_w}
        evoformer/{preprocess_1d,left_single,extra_msa_activations}/weights
        mlp_mixer/token_mixing/linear/w
    """,
    "TransformerLens": """
        blocks/0/attn/{W_Q,W_K,W_V,W_O} blocks/0/mlp/{W_in,W_out,W_gate} unembed/W_U
    """,
    "ViT, DeiT, DINO, CLIP, SigLIP": """
        embedding/kernel Transformer/encoderblock_0/MlpBlock_3/{Dense_0,Dense_1}/kernel
        Transformer/encoderblock_0/MultiHeadDotProductAttention_1/{query,key,value,out}/kernel
        head/kernel pre_logits/kernel MAPHead_0/MlpBlock_0/Dense_0/kernel
        patch_embed/proj/weight blocks/0/attn/{qkv,proj}/weight blocks/0/mlp/{fc1,fc2}/weight
        vit/embeddings/patch_embeddings/projection/kernel
        vision_model/embeddings/patch_embedding/kernel
        vision_model/embeddings/patch_embedding/weight patch_embed/weight
        to_patch_embedding/1/weight text_projection/kernel text_projection text_projection/weight
        visual/proj visual/conv1/weight visual/transformer/resblocks/0/attn/in_proj_weight
        vision_model/head/attention/in_proj_weight
    """,
    "MLP-Mixer": """
        stem/kernel MixerBlock_0/{token_mixing,channel_mixing}/{Dense_0,Dense_1}/kernel
        blocks/0/{mlp_tokens,mlp_channels}/{fc1,fc2}/weight blocks/0/token_mixing/weight
        blocks/0/token_mixing blocks/0/token_mixer/weight
    """,
    "Swin, ConvNeXt, ResNet, EfficientNet": """
        layers/0/blocks/0/attn/{qkv,proj,relative_position_proj}/weight
        layers/0/downsample/reduction/weight layers/0/blocks/0/attn/cpb_mlp/0/weight
        stages/0/blocks/0/{conv_dw,mlp/fc1,mlp/fc2}/weight stem/0/weight
        {conv1,layer1/0/conv1,layer1/0/downsample/0,fc}/weight
        {conv_init,ResNetBlock_0/Conv_0,ResNetBlock_0/conv_proj,Dense_0}/kernel
        blocks/0/0/{conv_pw,conv_dw,se/conv_reduce}/weight features/0/0/weight
        layers/0/{0,1}/conv/kernel
    """,
    "Segment Anything": """
        image_encoder/neck/0/weight image_encoder/blocks/0/attn/qkv/weight
        prompt_encoder/mask_downscaling/0/weight mask_decoder/output_upscaling/0/weight
        mask_decoder/output_hypernetworks_mlps/0/layers/0/weight
        mask_decoder/transformer/layers/0/self_attn/q_proj/weight
    """,
    "DETR, MaskFormer": """
        model/input_projection/weight class_labels_classifier/weight bbox_predictor/layers/0/weight
        model/decoder/layers/0/encoder_attn/q_proj/weight mask_embedder/0/0/weight
    """,
    "Stable Diffusion": """
        {conv_in,conv_out}/kernel time_embedding/{linear_1,linear_2}/kernel
        time_embed/{0,2}/weight label_emb/0/0/weight input_blocks/1/0/emb_layers/1/weight
        down_blocks_0/resnets_0/{conv1,conv2,time_emb_proj}/kernel
        down_blocks_0/attentions_0/transformer_blocks_0/attn1/{to_q,to_k,to_v,to_out_0}/kernel
        decoder/mid_block/attentions/0/to_q/weight {quant_conv,post_quant_conv}/kernel
        x_embedder/proj/weight t_embedder/mlp/0/weight context_embedder_linear/weight
        blocks/0/adaLN_modulation/1/weight
    """,
    "Whisper, wav2vec 2, Conformer": """
        encoder/{conv1,conv2}/kernel decoder/layers/0/encoder_attn/q_proj/kernel proj_out/weight
        feature_extractor/conv_layers/0/conv/kernel encoder/pos_conv_embed/conv/kernel
        feature_projection/projection/kernel quantizer/weight_proj/kernel {project_q,lm_head}/kernel
        layers/0/self_attn/{linear_q,linear_pos}/weight
    """,
    "Mamba, RWKV, S5": """
        backbone/layers/0/mixer/{in_proj,x_proj,dt_proj,out_proj,conv1d}/weight
        blocks/0/att/{key,value,receptance,output}/weight blocks/0/ffn/{key,value}/weight
        head/weight layers_0/seq/{B,C}
    """,
    "Perceiver, Flamingo": """
        encoder/cross_attention/attention/{query,key,value}/kernel
        perceiver/layers/0/0/{to_q,to_kv,to_out}/weight decoder/final_layer/weight
        tokens_to_logits/{weight,kernel} embed_proj/weight embed_proj tokens_to_logits
    """,
    "VQ-VAE, EnCodec, MusicGen": """
        encoder/layers/0/conv/weight encoder/layers/2/lstm/weight_{ih,hh}_l0
        lm_heads/0/weight codebook_proj/weight linears/0/weight
    """,
    "Keras": """
        dense/kernel conv2d/kernel lstm/lstm_cell/{kernel,recurrent_kernel}
        separable_conv2d/{depthwise_kernel,pointwise_kernel}
        multi_head_attention/{query,key,value,attention_output}/kernel
        token_and_position_embedding_mlp/dense/kernel
    """,
    "Equinox": """
        layers/0/weight attention/{query_proj,key_proj,value_proj,output_proj}/weight
        mlp/layers/1/weight cell/weight_{ih,hh} conv/weight patch_embedding/weight
    """,
    "adapted": """
        layers/0/attn/q_proj/kernel layers/0/attn/q_proj/base_layer/weight
        lora_dense/kernel router_mlp/kernel
    """,
    "by hand": """
        W w W1 a b 0 layers/0/0 params/1/w dense/weight Conv_0/kernel patch_embedding/kernel
        layers/self_attention/value/kernel bn_relu_conv/kernel lstm/hf/kernel lstm/weight_ih
        mlp/layers/0/weight layer_0/attn/q_einsum/w layer_0/mlp/gating_einsum experts/wi
        embeddings/projection/weight
    """,
}

DENSE = {
    "BERT, Linen": """
        bert/embeddings/{word_embeddings,position_embeddings,token_type_embeddings}/embedding
        bert/embeddings/LayerNorm/{scale,bias} bert/encoder/layer/0/attention/output/LayerNorm/scale
        bert/encoder/layer/0/attention/self/query/bias cls/predictions/bias
    """,
    "BERT and its relatives, PyTorch": """
        bert/embeddings/{word_embeddings,position_embeddings,token_type_embeddings}/weight
        bert/encoder/layer/0/output/LayerNorm/weight cls/predictions/transform/LayerNorm/weight
        deberta/encoder/rel_embeddings/weight transformer/{mask_emb,word_embedding/weight}
        transformer/layer/0/rel_attn/{r_w_bias,r_r_bias,r_s_bias,seg_embed}
        word_embeddings_layernorm/weight
    """,
    "GPT-2, GPT-J, GPT-NeoX": """
        transformer/{wte,wpe}/embedding {wte,wpe}/weight wte wpe transformer/ln_f/scale
        h/0/{ln_1,ln_2}/weight gpt_neox/embed_in/weight h/0/attn/c_attn/bias
        gpt_neox/layers/0/{input_layernorm,post_attention_layernorm}/weight
    """,
    "T5": """
        shared/embedding shared/weight shared encoder/embed_tokens/weight
        encoder/block/0/layer/0/SelfAttention/relative_attention_bias/embedding
        encoder/block/0/layer/0/SelfAttention/relative_attention_bias/weight
        encoder/block/0/layer/0/layer_norm/weight encoder/final_layer_norm/weight
        encoder/relpos_bias/rel_embedding token_embedder/embedding encoder/encoder_norm/scale
        encoder/layers_1/mlp/router/router_weights/w/kernel
        encoder/block/1/layer/1/mlp/router/classifier/weight relative_attention_bias
    """,
    "Llama, Mistral, Qwen, Phi": """
        model/embed_tokens/weight model/embed_tokens/embedding tok_embeddings/weight
        model/layers/0/{input_layernorm,post_attention_layernorm}/weight model/norm/weight
        layers/0/{attention_norm,ffn_norm}/weight model/layers/0/self_attn/{q_norm,k_norm}/weight
        rope/freqs freqs_cis freqs_cos freqs_sin model/layers/0/self_attn/rotary_emb/inv_freq
        model/layers/0/self_attn/rotary_emb/{cos_cached,sin_cached}
        model/layers/0/mlp/router/weight model/layers/0/feed_forward/router/weight
        model/layers/0/block_sparse_moe/router/layer/weight router/kernel
        model/layers/0/mlp/experts/{gate_up_proj_bias,down_proj_bias}
    """,
    "Gemma": """
        embedder/{input_embedding,input_embedding_table} embedder/mm_soft_embedding_norm/scale
        transformer/layer_0/{pre_attention_norm,post_attention_norm,pre_ffw_norm}/scale
        transformer/final_norm/scale layers/0/pre_attention_norm/scale
    """,
    "MaxText, Praxis": """
        token_embedder/embedding decoder/layers/pre_self_attention_layer_norm/scale
        decoder/decoder_norm/scale lm/softmax/embedding/emb_var
        lm/transformer/repeat/sub/x_layers_0/layer_norm/scale
        lm/transformer/repeat/sub/x_layers_0/ff_layer/ffn_layer1/bias/b
    """,
    "Haiku": """
        embed/embeddings layer_norm/{scale,offset}
        batch_norm/{scale,offset} batch_norm/~/{mean_ema,var_ema}/{average,hidden}
        transformer/positional_embeddings evoformer/left_single/bias
        evoformer/msa_row_attention/attention/{query_b,gating_b,output_b}
    """,
    "TransformerLens": """
        embed/W_E pos_embed/W_pos blocks/0/attn/{b_Q,b_K,b_V,b_O} blocks/0/mlp/{b_in,b_out}
        unembed/b_U
    """,
    "ViT, DeiT, DINO, CLIP, SigLIP": """
        cls pos_embedding Transformer/posembed_input/pos_embedding
        Transformer/encoderblock_0/LayerNorm_0/scale Transformer/encoder_norm/scale
        cls_token mask_token dist_token register_tokens pos_embed patch_pos_embed
        blocks/0/{norm1,norm2}/weight blocks/0/ls1/gamma blocks/0/{gamma_1,gamma_2}
        vit/embeddings/{cls_token,position_embeddings} MAPHead_0/probe
        vision_model/head/probe vision_model/embeddings/class_embedding
        vision_model/embeddings/position_embedding/embedding
        text_model/embeddings/{token_embedding,position_embedding}/weight
        visual/{class_embedding,positional_embedding} visual/{ln_pre,ln_post}/weight
        blocks/0/layer_scale1/lambda1 blocks/0/attn/{q_bias,v_bias}
        blocks/0/attn/relative_position_bias_table blocks/0/attn/temperature
    """,
    "MLP-Mixer": """
        MixerBlock_0/LayerNorm_0/scale pre_head_layer_norm/scale blocks/0/norm1/weight
    """,
    "Swin, ConvNeXt, ResNet, EfficientNet": """
        layers/0/blocks/0/attn/{relative_position_bias_table,relative_coords_table,logit_scale}
        absolute_pos_embed patch_embed/norm/weight stages/0/blocks/0/gamma norms/0/weight
        {bn1,layer1/0/bn2,layer1/0/gn}/weight bn1/{running_mean,running_var}
        {bn_init,ResNetBlock_0/BatchNorm_0}/{scale,bias,mean,var} downsample_norm/weight
        blocks/0/0/{bn1,bn2}/weight
    """,
    "Segment Anything": """
        image_encoder/pos_embed image_encoder/blocks/0/attn/{rel_pos_h,rel_pos_w}
        prompt_encoder/pe_layer/positional_encoding_gaussian_matrix gaussian_matrix
        shared_image_embedding/positional_embedding prompt_encoder/point_embeddings/0/weight
        prompt_encoder/{not_a_point_embed,no_mask_embed}/weight
        mask_decoder/{iou_token,mask_tokens}/weight
    """,
    "DETR, MaskFormer": """
        model/query_position_embeddings/weight query_embed/weight level_embed reference_points/bias
    """,
    "Stable Diffusion": """
        text_model/embeddings/token_embedding/embedding class_embedding/weight
        down_blocks_0/resnets_0/norm1/scale y_embedder/embedding_table/weight
        blocks/0/scale_shift_table decoder/conv_norm_out/weight
    """,
    "Whisper, wav2vec 2, Conformer": """
        encoder/embed_positions/embedding decoder/embed_tokens/embedding
        decoder/token_embedding/weight encoder/positional_embedding masked_spec_embed
        quantizer/codevectors layers/0/self_attn/{pos_bias_u,pos_bias_v}
        layers/0/conv_module/batch_norm/weight
    """,
    "Mamba, RWKV, S5": """
        backbone/layers/0/mixer/{A_log,dt_bias} backbone/layers/0/norm/weight
        backbone/embeddings/weight layers_0/seq/{log_A_real,A_imag,log_dt,log_step,Lambda_re}
        emb/weight blocks/0/att/{time_decay,time_first,time_mix_k,time_maa_w} blocks/0/ln1/weight
    """,
    "Perceiver, Flamingo": """
        embeddings/latents latents perceiver/latents query_latents latents/weight
        frame_embs media_time_embs time_pos_emb
    """,
    "VQ-VAE, EnCodec, MusicGen": """
        quantize/embedding/embedding quantize/embedding/weight quantizer/codebook codebooks/0/weight
        quantizer/layers/0/codebook/{embed,embed_avg} decoder/embed_tokens/0/weight codebook/weight
    """,
    "Keras": """
        embedding/embeddings batch_normalization/{gamma,beta,moving_mean,moving_variance}
        layer_normalization/{gamma,beta} dense/bias token_embedding/embeddings
        position_embedding/position_embeddings group_normalization/gamma
    """,
    "Equinox": """
        embedding/weight norm/weight norm/bias pos_embedding cls_token cell/bias cell/bias_n
        norms/1/weight
    """,
    "adapted": """
        layers/0/attn/q_proj/{lora_a,lora_b} layers/0/attn/q_proj/lora/{lora_a,lora_b}
        layers/0/attn/q_einsum/lora/{a,b} layers/0/q_proj/{lora_A,lora_B}/default/weight
        q_proj/{lora_kernel_a,lora_kernel_b} q_proj/{lora_up,lora_down}/weight
        q_proj/{lora_a,lora_b}/kernel q_proj/lora_magnitude_vector/weight
        soft_prompt prompt_encoder/soft_prompt/weight prompt_embeddings/weight prompt
    """,
    "by hand": """
        b1_bias bias beta scale gamma mean var embed embedding Dense_0/bias
        attention/query/bias attention/in_proj_bias gru/bias_n relative_position_bias_table
        batch_norm/beta LayerNorm_0/scale LayerNorm_0/bias input_layernorm/weight norm1/weight
        norms/weight ln/weight ln_f/weight ln_1/weight ln1/weight gn/weight rms_norm/w
        batch_norm/gamma BatchNorm_0/mean BatchNorm_0/var block/layer_scale attn_norm ffn_norm
        embed/embedding word_embeddings/weight wte/embedding pos_emb posembed_input/pos_embedding
        class_embedding relpos_bias/rel_embedding class_token
    """,
}


def expanded(names):
    """The names, each of {a,b} in turn."""
    for name in names.split():
        parts = [part.split(",") for part in re.split(r"[{}]", name)]
        yield from map("".join, itertools.product(*parts))


def leaf(rank=2):
    return jax.ShapeDtypeStruct((3, 8, 4)[:rank], jnp.float32)


def test_the_table_is_of_some_hundred_names_and_each_stands_once():
    names = [
        name for table in (WEIGHTS, DENSE) for text in table.values() for name in expanded(text)
    ]
    assert len(names) >= 400
    weights = {name for text in WEIGHTS.values() for name in expanded(text)}
    dense = {name for text in DENSE.values() for name in expanded(text)}
    assert not weights & dense


@pytest.mark.parametrize("model", WEIGHTS)
def test_is_weight_takes_the_weights_of(model):
    wrong = [name for name in expanded(WEIGHTS[model]) if not jp.is_weight(name, leaf())]
    assert not wrong


@pytest.mark.parametrize("model", DENSE)
@pytest.mark.parametrize("rank", [2, 3])
def test_is_weight_leaves_all_else_dense_of(model, rank):
    wrong = [name for name in expanded(DENSE[model]) if jp.is_weight(name, leaf(rank))]
    assert not wrong


@pytest.mark.parametrize(
    "leaf",
    [
        jnp.ones(8),
        jnp.ones(()),
        jnp.ones((0, 8)),
        jnp.ones((4, 8), int),
        jnp.ones((4, 8), bool),
        None,
    ],
    ids=["rank 1", "rank 0", "zero size", "integers", "booleans", "hole"],
)
def test_is_no_weight_whatever_the_name(leaf):
    assert not jp.is_weight("dense/kernel", leaf)


def test_the_plan_says_what_a_leaf_is():
    names = {
        "dense/bias": "bias",
        "norm/scale": "norm scale or statistic",
        "shared": "embedding",
        "attn/rel_pos_h": "code of positions",
        "mixer/A_log": "state space's decay",
        "query/lora_a": "low-rank adapter",
        "router/kernel": "router",
    }
    rows = jp.plan(dict.fromkeys([*names, "kernel"], leaf()), 0.5).rows
    assert {row.path: row.reason for row in rows} == {
        "kernel": "",
        **{path: f"{what} by name" for path, what in names.items()},
    }


# --- the default, changed -----------------------------------------------------------------------

MODEL = {
    "stem": {"kernel": leaf(), "bias": leaf(1)},
    "blocks": {"up": {"kernel": leaf(3), "bias": leaf()}, "down": {"kernel": leaf(3)}},
    "shared": leaf(),
    "router": {"kernel": leaf()},
    "step": jax.ShapeDtypeStruct((), jnp.int32),
}
DEFAULT = {"stem/kernel", "blocks/up/kernel", "blocks/down/kernel"}


def pruned_paths(where):
    return {row.path for row in jp.plan(MODEL, 0.5, where=where).rows if not row.reason}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (jp.Weights(), DEFAULT),
        (jp.Weights(also="shared"), DEFAULT | {"shared"}),
        (jp.Weights("shared"), DEFAULT | {"shared"}),
        (jp.Weights(also=["shared", re.compile("rou.*")]), DEFAULT | {"shared", "router/kernel"}),
        (jp.Weights(also="stem"), DEFAULT | {"stem/bias"}),
        (jp.Weights(but="stem"), DEFAULT - {"stem/kernel"}),
        (jp.Weights(but=("stem*", "*/up")), {"blocks/down/kernel"}),
        (jp.Weights(but="shared"), DEFAULT),
        (jp.Weights(also=["shared", "stem"], but="s*"), DEFAULT - {"stem/kernel"}),
        (jp.Weights(also="*", but="*/bias"), DEFAULT | {"shared", "router/kernel"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_weights_are_the_default_with_changes(where, expected):
    assert pruned_paths(where) == expected
    assert pruned_paths(where.__call__) == expected  # as any predicate


def test_weights_without_changes_say_what_the_default_says():
    assert jp.plan(MODEL, 0.5, where=jp.Weights()) == jp.plan(MODEL, 0.5)


def test_the_plan_says_which_pattern_left_a_leaf_out():
    rows = jp.plan(MODEL, 0.5, where=jp.Weights(but=["blocks/up", re.compile("st.*")])).rows
    reasons = {row.path: row.reason for row in rows}
    assert reasons["blocks/up/kernel"] == "left out by but='blocks/up'"
    assert reasons["stem/kernel"] == "left out by but='st.*'"
    assert reasons["step"] == "dtype int32"


def test_weights_compare_and_hash_by_their_patterns():
    assert jp.Weights(also="a") == jp.Weights(also=["a"]) != jp.Weights(but="a")
    assert hash(jp.Weights(also=["a"])) == hash(jp.Weights(also=("a",)))


@pytest.mark.parametrize("field", ["also", "but"])
def test_a_pattern_that_covers_nothing_is_refused(field):
    with pytest.raises(jp.NoMatch, match=r"the pattern 'sahred' matches .* Did you mean `shared`"):
        jp.plan(MODEL, 0.5, where=jp.Weights(**{field: ["stem", "sahred"]}))


def test_both_fields_wrong_patterns_are_named_in_one_error():
    with pytest.raises(jp.NoMatch, match=r"(?s)2 problems.*'one'.*'two'"):
        jp.plan(MODEL, 0.5, where=jp.Weights(also="one", but="two"))


def test_what_can_never_be_pruned_is_not_added_in_silence():
    with pytest.raises(jp.NoMatch, match=r"also='step' covers no leaf .*: dtype int32 \(1\)"):
        jp.plan(MODEL, 0.5, where=jp.Weights(also="step"))


@pytest.mark.parametrize(
    "wrong",
    [3, None, ["stem", 3], lambda path, leaf: True],
    ids=["integer", "None", "mixed", "predicate"],
)
def test_weights_of_something_else_than_patterns_are_refused(wrong):
    with pytest.raises(jp.PruningError, match=r"but=.* is neither a path pattern nor several"):
        jp.Weights(but=wrong)


def test_an_error_about_where_shows_how_to_change_the_default_and_how_to_leave_leaves_dense():
    with pytest.raises(jp.PruningError, match=r"neither .*jp\.Weights\(.*\{\"stem\": None, "):
        jp.plan(MODEL, 0.5, where=3)


def test_weights_choose_for_every_function_that_asks_where():
    params = {"stem": {"kernel": jnp.ones((4, 4))}, "shared": jnp.ones((4, 4))}
    where = jp.Weights(also="shared", but="stem")
    _, mask = jp.prune(params, 0.5, where=where)
    assert mask["stem"]["kernel"] is None
    assert int(mask["shared"].sum()) == 8
    assert jp.mask_from_zeros(params, where=where)["stem"]["kernel"] is None
    assert [row.path for row in jp.report(params, where=where).rows if not row.reason] == ["shared"]

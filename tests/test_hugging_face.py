"""Pruned Hugging Face folders load in transformers and in Flax, with equal logits."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

REASON = "loads checkpoints as transformers does: `pip install torch transformers`"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs/hugging-face.md"
SIZES = {
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def run(folder, *command):
    """Runs Python in a process of its own, on this copy of jaxprune and without a network."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def prune(folder, source, target, *options):
    run(folder, "-m", "jaxprune", "prune", source, "-o", target, "--layout", "torch", *options)


def groups(weight):
    """How many of each four neighbours along the input axis of `[out, in]` are not zero."""
    return (weight != 0).unflatten(1, (-1, 4)).sum(-1)


def test_the_examples_prune_a_llama_and_compare_its_logits(tmp_path):
    printed = run(tmp_path, ROOT / "examples/hugging_face.py")
    assert "its logits equal those of the masked model" in printed
    plan, pruned = re.findall("```text\n(.*?)```", PAGE.read_text(), flags=re.S)
    # Which files a tokenizer has depends on the version of transformers.
    assert pruned.removesuffix("tokenizer.json, tokenizer_config.json\n") in printed

    (dry_run,) = re.findall("jaxprune (prune .* --dry-run .*)", PAGE.read_text())
    planned = run(tmp_path, "-m", "jaxprune", *dry_run.split())
    assert planned.startswith(plan.removesuffix("...\n"))

    printed = run(tmp_path, ROOT / "examples/hugging_face_flax.py")
    assert "Flax's logits equal those of transformers" in printed


def test_a_sharded_bfloat16_llama_with_tied_embeddings_is_loaded_back(tmp_path):
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True)
    dense = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    dense.save_pretrained(tmp_path / "dense", max_shard_size="100KB")
    assert len(list(tmp_path.glob("dense/*.safetensors"))) > 1

    prune(tmp_path, "dense", "pruned", "--spec", "2:4")
    (tmp_path / "pruned/config.json").write_bytes((tmp_path / "dense/config.json").read_bytes())
    pruned = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")

    assert pruned.dtype == torch.bfloat16
    before = dict(dense.named_parameters())
    for name, weight in pruned.named_parameters():
        if name.endswith("_proj.weight"):
            assert (groups(weight) == 2).all(), name
            assert torch.equal(weight[weight != 0], before[name][weight != 0]), name
        else:
            assert torch.equal(weight, before[name]), name


def test_a_bert_encoder_is_loaded_back(tmp_path):
    dense = transformers.BertModel(transformers.BertConfig(**SIZES, max_position_embeddings=16))
    dense.save_pretrained(tmp_path / "bert")

    source, target = tmp_path / "bert/model.safetensors", tmp_path / "pruned/model.safetensors"
    target.parent.mkdir()
    prune(tmp_path, source, target, "--spec", "2:4", "--skip", "pooler")
    (target.parent / "config.json").write_bytes((source.parent / "config.json").read_bytes())
    pruned = transformers.AutoModel.from_pretrained(target.parent).eval()

    for name, weight in dense.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name and "pooler" not in name:
            kept = torch.topk(weight.detach().abs().unflatten(1, (-1, 4)), 2).indices
            mask = torch.zeros_like(weight).unflatten(1, (-1, 4)).scatter(-1, kept, 1).flatten(1)
            weight.data *= mask
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        expected = dense.eval()(tokens).last_hidden_state
        assert torch.equal(pruned(tokens).last_hidden_state, expected)

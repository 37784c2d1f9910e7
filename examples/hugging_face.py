"""A Hugging Face Llama folder: pruned to 2:4 by the command line, loaded back by transformers.

Needs `pip install torch transformers`. Nothing is downloaded: the small model has random weights.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

DENSE, PRUNED, MASKS = Path("demo/llama"), Path("demo/llama-2of4"), Path("demo/masks.safetensors")
WORDS = ["<unk>", "<s>", "</s>", "the", "cat", "sat", "on", "a", "mat"]


def save_model(folder):
    """Writes the files of a downloaded model: config.json, model.safetensors, the tokenizer's."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(WORDS), **sizes, **heads, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder)

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def prune(source, target):
    """Prunes the weights on the command line, which copies the configuration and the tokenizer."""
    target.mkdir(parents=True, exist_ok=True)
    command = f"-m jaxprune prune {source}/model.safetensors -o {target}/model.safetensors"
    choices = f"--layout torch --spec 2:4 --skip lm_head --mask-out {MASKS} --with-sidecars"
    subprocess.run([sys.executable, *command.split(), *choices.split()], check=True)


def main():
    if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        print("Skipped: this example needs `pip install torch transformers`.")
        return

    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_model(DENSE)
    prune(DENSE, PRUNED)

    tokens = AutoTokenizer.from_pretrained(PRUNED)("the cat sat on a mat", return_tensors="pt")
    pruned = AutoModelForCausalLM.from_pretrained(PRUNED)
    masked = AutoModelForCausalLM.from_pretrained(DENSE)
    with torch.no_grad():
        dense_logits = masked(**tokens).logits
        for name, mask in load_file(MASKS).items():  # what the pruned file should amount to
            masked.get_parameter(name).masked_fill_(~mask, 0)
        difference = (pruned(**tokens).logits - masked(**tokens).logits).abs().max()
        change = (pruned(**tokens).logits - dense_logits).abs().max()
    assert difference == 0
    print(f"transformers loads {PRUNED}, and its logits equal those of the masked model.")
    print(f"They differ from the dense model's by up to {change:.2f}: fine-tuning starts here.")


if __name__ == "__main__":
    main()

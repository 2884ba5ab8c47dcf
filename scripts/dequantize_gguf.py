"""Turns the GGUF file of a Llama-family model into a Hugging Face folder that PyTorch loads.

usage: dequantize_gguf.py MODEL.gguf OUT_DIR [--dtype f32|bf16] [--check]

Writes model.safetensors, config.json, tokenizer.json and tokenizer_config.json. transformers can read
a GGUF file but refuses to save what it read, hence this script. `--check` asks the result for the
capital of France.

Needs scripts/python-env.sh.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL_TOKEN = 3  # tokenizer.ggml.token_type: a token that text never spells, such as <|im_end|>
BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class Metadata:
    """The key-value part of a GGUF file."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self._fields = reader.fields

    def get(self, key: str, default=None):
        """The value of `key`, or `default` where the file does not carry it."""
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def llama(self, key: str):
        """The value of `llama.<key>`, which must be there."""
        value = self.get(f"llama.{key}")
        if value is None:
            raise SystemExit(f"the GGUF file has no `llama.{key}`: is it a Llama-family model?")
        return value


def hf_name(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    stem, suffix = gguf_name.rsplit(".", 1)
    if stem in OUTER_TENSORS:
        return f"{OUTER_TENSORS[stem]}.{suffix}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{BLOCK_TENSORS[part]}.{suffix}"


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes the row order of q and k in GGUF (interleaved RoPE) for Hugging Face's (halves) RoPE."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def weights(reader: gguf.GGUFReader, metadata: Metadata, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All tensors, dequantised, under their Hugging Face names."""
    heads = {
        "attn_q": metadata.llama("attention.head_count"),
        "attn_k": metadata.llama("attention.head_count_kv"),
    }
    result = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = unpermute(values, heads[part])
        result[hf_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
    return result


def config(metadata: Metadata, tied: bool, dtype: torch.dtype) -> dict:
    """config.json of a LlamaForCausalLM."""
    hidden_size = metadata.llama("embedding_length")
    heads = metadata.llama("attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": metadata.llama("feed_forward_length"),
        "num_hidden_layers": metadata.llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.llama("attention.head_count_kv"),
        "head_dim": hidden_size // heads,
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens")),
        "max_position_embeddings": metadata.llama("context_length"),
        "rms_norm_eps": round(metadata.llama("attention.layer_norm_rms_epsilon"), 8),
        "rope_theta": metadata.get("llama.rope.freq_base", 10000.0),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "dtype": str(dtype).removeprefix("torch."),
    }


def byte_level_bpe(metadata: Metadata) -> Tokenizer:
    """The tokenizer of a GGUF whose `tokenizer.ggml.pre` is `smollm`: single digits, then GPT-2's words."""
    kind = (metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise SystemExit(f"no rule for the tokenizer {kind}; only ('gpt2', 'smollm') is known here")
    tokens = metadata.get("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, types) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def tokenizer_config(metadata: Metadata) -> dict:
    """tokenizer_config.json: special tokens and the chat template."""
    tokens = metadata.get("tokenizer.ggml.tokens")

    def token(key: str) -> str:
        return tokens[metadata.get(f"tokenizer.ggml.{key}_token_id")]

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "unk_token": token("unknown"),
        "pad_token": token("padding"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.llama("context_length"),
        "chat_template": metadata.get("tokenizer.chat_template"),
    }


def write_folder(source: Path, out: Path, dtype: torch.dtype) -> None:
    """Reads `source` and writes the folder `out`."""
    reader = gguf.GGUFReader(source)
    metadata = Metadata(reader)
    tensors = weights(reader, metadata, dtype)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    byte_level_bpe(metadata).save(str(out / "tokenizer.json"))
    for name, value in [
        ("config.json", config(metadata, "lm_head.weight" not in tensors, dtype)),
        ("tokenizer_config.json", tokenizer_config(metadata)),
    ]:
        (out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def ask_for_the_capital_of_france(folder: Path) -> None:
    """A wrong permutation or tokenizer turns this answer into noise."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"What is the capital of France? {answer}")
    if "Paris" not in answer:
        raise SystemExit("the model does not know that it is Paris: the conversion is wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description="GGUF -> Hugging Face folder")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--check", action="store_true", help="ask the result for the capital of France")
    args = parser.parse_args()
    write_folder(args.gguf, args.out, {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype])
    if args.check:
        ask_for_the_capital_of_france(args.out)


if __name__ == "__main__":
    main()

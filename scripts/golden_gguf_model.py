"""Writes the tiny golden models with biases and RoPE scaling as GGUF files, and has llama.cpp confirm them.

    .cache/python/bin/pip install gguf llama-cpp-python==0.3.36
    .cache/python/bin/python scripts/golden_gguf_model.py tests/fixtures/golden

Rows of q and k, and their biases, are put into llama.cpp's order as its convert_hf_to_gguf.py does (`LlamaModel.permute`);
`llama3` scaling becomes its `rope_freqs.weight`. llama.cpp's logits must be those of golden.safetensors, which
PyTorch made (golden_llama.py): so the files mean to llama.cpp what they are meant to.
"""

import json
import math
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

MODELS = ["tiny_biases", "tiny_llama3"]
NAMES = {
    "model.embed_tokens.": "token_embd.",
    "model.norm.": "output_norm.",
    "lm_head.": "output.",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOLERANCE = 1e-4


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """From half against half to neighbour against neighbour."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def divisors(rope: dict, head_dim: int) -> np.ndarray:
    """What the frequencies are divided by, of `llama3` scaling."""
    low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    values = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelength < original / high:
            values.append(1.0)
        elif wavelength > original / low:
            values.append(rope["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            values.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(values, dtype=np.float32)


def write(folder: Path, out: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    rope = config["rope_parameters"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_eos_token_id(config["eos_token_id"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    else:
        writer.add_tensor("rope_freqs.weight", divisors(rope, config["head_dim"]))
    for name, values in load_file(folder / "model.safetensors").items():
        if "q_proj" in name:
            values = permuted(values, config["num_attention_heads"])
        if "k_proj" in name:
            values = permuted(values, config["num_key_value_heads"])
        for old, new in NAMES.items():
            name = name.replace(old, new)
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def error_of_llama_cpp(path: Path, golden: dict[str, np.ndarray]) -> float:
    llama = llama_cpp.Llama(
        str(path), logits_all=True, verbose=False, n_ctx=64, n_threads=1, type_k=0, type_v=0, flash_attn=False
    )
    largest = 0.0
    for sequence in range(2):
        llama.reset()
        llama.eval(golden[f"ids.{sequence}"].tolist())
        expected = golden[f"logits.{sequence}"]
        largest = max(largest, float(np.abs(llama.scores[: len(expected)] - expected).max()))
    return largest


def main() -> None:
    for model in MODELS:
        folder = Path(sys.argv[1]) / model
        path = folder / "model.gguf"
        write(folder, path)
        error = error_of_llama_cpp(path, load_file(folder / "golden.safetensors"))
        print(f"{model}: llama.cpp's logits are {error:.1e} from PyTorch's")
        if not error < TOLERANCE:
            sys.exit(f"more than {TOLERANCE}")


main()

"""Writes a full-size checkpoint whose weights are noise: as large, as sharded and as named as a published one.

usage: synthetic_checkpoint.py MODEL OUT_DIR [--layers N]

MODEL is codellama-7b (bf16) or llama-2-7b (f16). The files are those that transformers of 2023 saved: safetensors shards of at
most 10 GB with an index, the checkpoint's own config.json, and the buffers `rotary_emb.inv_freq` that models of that time carry. It is for
timing and memory: 13.5 GB that load, quantise and compute like the real thing and answer nonsense. Needs numpy; writes as fast as the disk.

A tokenizer is not made. Copy the model's tokenizer.json or tokenizer.model into OUT_DIR to train or evaluate with it.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HIDDEN, INTERMEDIATE, LAYERS, HEAD_DIM = 4096, 11008, 32, 128
SHARD_BYTES = 10_000_000_000
POOL = 1 << 26
MODELS = {
    "codellama-7b": {
        "name": "codellama/CodeLlama-7b-hf",
        "dtype": "BF16",
        "vocab_size": 32016,
        "max_position_embeddings": 16384,
        "rope_theta": 1000000,
    },
    "llama-2-7b": {
        "name": "meta-llama/Llama-2-7b-hf",
        "dtype": "F16",
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rope_theta": 10000,
    },
}


def config(model: dict, layers: int) -> dict:
    """config.json"""
    return {
        "_name_or_path": model["name"],
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": model["max_position_embeddings"],
        "model_type": "llama",
        "num_attention_heads": HIDDEN // HEAD_DIM,
        "num_hidden_layers": layers,
        "num_key_value_heads": HIDDEN // HEAD_DIM,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": model["rope_theta"],
        "tie_word_embeddings": False,
        "torch_dtype": {"BF16": "bfloat16", "F16": "float16"}[model["dtype"]],
        "use_cache": True,
        "vocab_size": model["vocab_size"],
    }


def shapes(vocab_size: int, layers: int) -> Iterator[tuple[str, list[int]]]:
    """Every tensor in the order in which a Llama has them."""
    yield "model.embed_tokens.weight", [vocab_size, HIDDEN]
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}.self_attn.{projection}.weight", [HIDDEN, HIDDEN]
        yield f"{prefix}.self_attn.rotary_emb.inv_freq", [HEAD_DIM // 2]
        yield f"{prefix}.mlp.gate_proj.weight", [INTERMEDIATE, HIDDEN]
        yield f"{prefix}.mlp.up_proj.weight", [INTERMEDIATE, HIDDEN]
        yield f"{prefix}.mlp.down_proj.weight", [HIDDEN, INTERMEDIATE]
        yield f"{prefix}.input_layernorm.weight", [HIDDEN]
        yield f"{prefix}.post_attention_layernorm.weight", [HIDDEN]
    yield "model.norm.weight", [HIDDEN]
    yield "lm_head.weight", [vocab_size, HIDDEN]


def shards(tensors: list[tuple[str, list[int]]]) -> list[list[tuple[str, list[int]]]]:
    """Tensors in files of at most 10 GB."""
    result, size = [[]], 0
    for name, shape in tensors:
        count = 2 * int(np.prod(shape))
        if size + count > SHARD_BYTES:
            result.append([])
            size = 0
        result[-1].append((name, shape))
        size += count
    return result


def noise(dtype: str) -> np.ndarray:
    """Bits of normally distributed values with the standard deviation of a fresh model, 0.02."""
    values = np.random.default_rng(1).standard_normal(POOL, dtype=np.float32) * np.float32(0.02)
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def values(name: str, count: int, dtype: str, pool: np.ndarray, start: int) -> Iterator[np.ndarray]:
    """The bits of one tensor, in pieces: ones for a norm, frequencies, noise from a moving place of the pool."""
    if "norm" in name:
        yield np.full(count, {"BF16": 0x3F80, "F16": 0x3C00}[dtype], np.uint16)
    elif "inv_freq" in name:
        frequencies = (1 / 10000 ** (np.arange(count) / count)).astype(np.float32)
        yield frequencies.astype(np.float16).view(np.uint16) if dtype == "F16" else (
            frequencies.view(np.uint32) >> 16
        ).astype(np.uint16)
    else:
        while count > 0:
            piece = pool[start : start + count]
            yield piece
            count -= len(piece)
            start = 0


def main() -> None:
    parser = argparse.ArgumentParser(description="a full-size checkpoint of noise")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer blocks than the published model has")
    args = parser.parse_args()
    model = MODELS[args.model]
    dtype = model["dtype"]
    args.out.mkdir(parents=True, exist_ok=True)
    pool = noise(dtype)
    files = shards(list(shapes(model["vocab_size"], args.layers)))
    weight_map, total = {}, 0
    for number, tensors in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in tensors:
            end = offset + 2 * int(np.prod(shape))
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
            weight_map[name] = file
            offset = end
        total += offset
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with (args.out / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for index, (name, shape) in enumerate(tensors):
                start = (number * 7919 + index) * 65537 % POOL
                for piece in values(name, int(np.prod(shape)), dtype, pool, start):
                    out.write(piece.data)
        print(f"{file}: {offset} bytes, {len(tensors)} tensors")
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (args.out / "config.json").write_text(json.dumps(config(model, args.layers), indent=2) + "\n")
    generation = {"bos_token_id": 1, "eos_token_id": 2, "_from_model_config": True}
    (args.out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


if __name__ == "__main__":
    main()

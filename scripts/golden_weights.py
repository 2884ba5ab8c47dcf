#!/usr/bin/env python3
"""Golden weights: values of a GGUF's tensors as transformers itself loads them.

Writes tests/fixtures/model/golden_weights.json, which crates/rag-tune-model's tests of the
checkpoint check, bit for bit: per tensor its shape, a sha256 over its f32 values, and a few of
them, so that a difference can be looked at.
The gguf package dequantises the same tensors; where it disagrees with transformers (after
undoing the row order of q_proj and k_proj), the script fails.

    scripts/python-env.sh
    RAG_TUNE_MIRROR=DIR .cache/python/bin/python scripts/golden_weights.py
"""

import hashlib
import json
import os
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

FIXTURE = Path(__file__).parent.parent / "tests/fixtures/model/golden_weights.json"
MODEL = "models/HuggingFaceTB/SmolLM2-135M-Instruct"
TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "model.layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
    "model.layers.0.self_attn.k_proj.weight": "blk.0.attn_k.weight",
    "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    "model.layers.7.post_attention_layernorm.weight": "blk.7.ffn_norm.weight",
    "model.layers.13.self_attn.o_proj.weight": "blk.13.attn_output.weight",
    "model.layers.29.self_attn.q_proj.weight": "blk.29.attn_q.weight",
    "model.layers.29.self_attn.k_proj.weight": "blk.29.attn_k.weight",
    "model.layers.29.mlp.gate_proj.weight": "blk.29.ffn_gate.weight",
    "model.layers.29.mlp.up_proj.weight": "blk.29.ffn_up.weight",
    "model.layers.29.mlp.down_proj.weight": "blk.29.ffn_down.weight",
}
HEADS = {"q_proj": 9, "k_proj": 3}
SAMPLES = 8


def half_split(values: np.ndarray, heads: int) -> np.ndarray:
    """Undoes the row order that llama.cpp's converter gives q_proj and k_proj."""
    rows, in_features = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, in_features)
    return pairs.swapaxes(1, 2).reshape(rows, in_features)


def record(name: str, values: np.ndarray, rng: np.random.Generator) -> dict:
    flat = values.reshape(-1)
    places = np.sort(rng.choice(flat.size, SAMPLES, replace=False))
    return {
        "name": name,
        "shape": list(values.shape),
        "sha256": hashlib.sha256(flat.astype("<f4").tobytes()).hexdigest(),
        "samples": [[int(place), float(flat[place])] for place in places],
    }


def main() -> None:
    folder = Path(os.environ["RAG_TUNE_MIRROR"]) / MODEL
    [path] = folder.glob("*.gguf")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=torch.float32)
    loaded = model.state_dict()

    rng = np.random.default_rng(0)
    records = []
    for name, gguf_name in TENSORS.items():
        values = loaded[name].numpy()
        tensor = stored[gguf_name]
        check = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        projection = name.split(".")[-2]
        if projection in HEADS:
            check = half_split(check, HEADS[projection])
        assert np.array_equal(values, check), f"transformers and gguf disagree on {name}"
        records.append(record(name, values, rng))
    golden = {"made_by": "scripts/golden_weights.py", "model": MODEL, "tensors": records}
    lines = json.dumps(golden).replace("[{", "[\n{").replace("}, {", "},\n{")
    FIXTURE.write_text(lines + "\n", encoding="utf-8")


main()

"""Golden numbers for the GGUF export: what llama.cpp's own converter makes of a small adapter.

Writes an adapter with fixed random values for the model tests/fixtures/golden/tiny_tied (grouped-query attention, so
that q and k are permuted differently) and converts it with convert_lora_to_gguf.py. Kept are the adapter folder and the
converter's tensors as safetensors: tests/fixtures/golden/gguf_lora/{adapter_config.json,adapter_model.safetensors,
converted.safetensors}. The Rust test compares its own file with them, value by value.

needs   Python 3.11 with torch, transformers, safetensors, gguf, numpy; llama.cpp's source, which the PyPI package
        llama-cpp-python carries: pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
run     python scripts/golden_gguf_lora.py LLAMA_CPP_FOLDER
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
from gguf import GGUFReader
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "tests/fixtures/golden/tiny_tied"
OUT = ROOT / "tests/fixtures/golden/gguf_lora"
RANK = 2


def shapes(config):
    """[out, in] of the linear layers of a block."""
    hidden, middle = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    query = width * config["num_attention_heads"]
    key_value = width * config["num_key_value_heads"]
    return {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (middle, hidden),
        "mlp.up_proj": (middle, hidden),
        "mlp.down_proj": (hidden, middle),
    }


def main():
    converter = Path(sys.argv[1]) / "convert_lora_to_gguf.py"
    config = json.loads((MODEL / "config.json").read_text())
    torch.manual_seed(5)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (rows, columns) in shapes(config).items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, columns)
            tensors[f"{name}.lora_B.weight"] = torch.randn(rows, RANK)
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT / "adapter_model.safetensors", {"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny_tied",
        "r": RANK,
        "lora_alpha": 3.0,
        "target_modules": [module.split(".")[1] for module in shapes(config)],
    }
    (OUT / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adapter.gguf"
        subprocess.run(
            [sys.executable, converter, "--base", MODEL, "--outfile", file, "--outtype", "f32", OUT],
            check=True,
        )
        reader = GGUFReader(file)
        converted = {tensor.name: numpy.array(tensor.data) for tensor in reader.tensors}
        alpha = reader.fields["adapter.lora.alpha"].contents()
        save_numpy(converted, OUT / "converted.safetensors", {"adapter.lora.alpha": str(float(alpha))})
    print(f"{len(converted)} tensors, alpha {alpha}")


main()

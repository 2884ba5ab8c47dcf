"""Shows that HF PEFT loads an adapter written by rag-tune and computes the same logits with it.

usage: check_peft.py RUN_DIR BASE_DIR LOGITS.json... [--quantization int8|none] [--bound 0.05]

RUN_DIR holds adapter_model.safetensors and adapter_config.json; BASE_DIR is the base model as a Hugging Face
folder (scripts/dequantize_gguf.py makes one of a GGUF). Each LOGITS.json is what
`rag-tune debug-logits --adapter RUN_DIR --ids 1,2,3 --json` printed: {"ids": [...], "logits_last": [...]}.
The base is put into rag-tune's 8-bit form first, unless `--quantization none`. Exit code 1 if any logit
differs by more than the bound.

Needs scripts/python-env.sh.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from int8_rows import quantize_model
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoModelForCausalLM


def load(run: Path, base: Path, quantize: bool) -> PeftModel:
    """Base and adapter in f32; fails if PEFT leaves a tensor of the file unused or misses one."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if quantize:
        quantize_model(model)
    adapted = PeftModel.from_pretrained(model, str(run)).eval()
    expected = set(get_peft_model_state_dict(adapted))
    with safe_open(run / "adapter_model.safetensors", framework="pt") as file:
        written = set(file.keys())
    if expected != written:
        raise SystemExit(f"PEFT and {run} differ in tensors: {sorted(expected ^ written)[:4]} ...")
    return adapted


@torch.no_grad()
def difference(model: PeftModel, logits_file: Path) -> tuple[float, float, bool]:
    """Largest absolute difference, largest logit, and whether both choose the same next token."""
    record = json.loads(logits_file.read_text())
    theirs = torch.tensor(record["logits_last"])
    ours = model(input_ids=torch.tensor([record["ids"]])).logits[0, -1]
    if ours.shape != theirs.shape:
        raise SystemExit(f"{logits_file} has {theirs.numel()} logits, the model {ours.numel()}")
    same_choice = bool(ours.argmax() == theirs.argmax())
    return (ours - theirs).abs().max().item(), ours.abs().max().item(), same_choice


def main() -> None:
    parser = argparse.ArgumentParser(description="rag-tune's adapter in HF PEFT: same logits?")
    parser.add_argument("run", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("logits", type=Path, nargs="+")
    parser.add_argument("--quantization", choices=["int8", "none"], default="int8")
    parser.add_argument("--bound", type=float, default=0.05, help="largest difference allowed (logits)")
    args = parser.parse_args()
    model = load(args.run, args.base, args.quantization == "int8")
    worst = 0.0
    for path in args.logits:
        largest, scale, same_choice = difference(model, path)
        choice = "same next token" if same_choice else "ANOTHER next token"
        print(f"{path}: max abs difference {largest:.6f} (largest logit {scale:.2f}), {choice}")
        worst = max(worst, largest if largest == largest else float("inf"))
    print(f"worst {worst:.6f}, bound {args.bound}")
    sys.exit(worst > args.bound)


if __name__ == "__main__":
    main()

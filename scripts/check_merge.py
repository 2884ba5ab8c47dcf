"""Compares a model that `rag-tune merge` wrote with PEFT's `merge_and_unload` and with the adapter unmerged in PEFT.

usage: check_merge.py BASE ADAPTER MERGED TEXT

BASE is the model's folder, ADAPTER the run's, MERGED what `rag-tune merge --base BASE` (base weights as stored) wrote, TEXT a
text file of which the first 512 tokens are used. All arithmetic is f32. Prints how many merged weights equal PEFT's, rounded to the
stored type, and the largest differences of weights and of logits. Needs scripts/python-env.sh.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

TOKENS = 512


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def stored(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(path)
    return tensors


def compare_weights(merged: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    worst, equal, total = 0.0, 0, 0
    for name, weight in merged.items():
        exact = expected[name].to(torch.float32)
        rounded = exact.to(weight.dtype)
        worst = max(worst, (weight.float() - rounded.float()).abs().max().item())
        equal += (weight == rounded).sum().item()
        total += weight.numel()
    print(f"weights: {equal} of {total} equal ({100 * equal / total:.4f} %), at most {worst:.3e} apart")


def main() -> None:
    parser = argparse.ArgumentParser(description="compares a merged model with PEFT's")
    for name in ("base", "adapter", "merged", "text"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(args.merged / "tokenizer.json"))
    ids = torch.tensor([tokenizer(args.text.read_text(encoding="utf-8"))["input_ids"][:TOKENS]])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        # PEFT refuses no key of ours, but looks the base up by the name in the config: it has it already.
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (Path(folder) / name).write_bytes((args.adapter / name).read_bytes())
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        print({key: config[key] for key in ("r", "lora_alpha", "use_rslora", "use_dora")}, f"{ids.shape[1]} tokens")
        adapted = PeftModel.from_pretrained(load(args.base), folder).eval()
        applied = adapted(ids).logits[0]
        without = load(args.base)(ids).logits[0]
        merged = load(args.merged)(ids).logits[0]
        expected = adapted.merge_and_unload()
        compare_weights(stored(args.merged), expected.state_dict())
        for name, logits in [("PEFT's merged", expected(ids).logits[0]), ("PEFT's adapter applied", applied)]:
            difference = (merged - logits).abs()
            best = (merged.argmax(-1) == logits.argmax(-1)).float().mean()
            print(f"logits, {name}: at most {difference.max():.3e} apart, {100 * best:.2f} % the same best token")
        print(f"for scale, the base without the adapter: {(without - applied).abs().max():.3e}")


if __name__ == "__main__":
    main()

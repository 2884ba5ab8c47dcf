"""How far PyTorch's own LoRA gradients and logits in bf16 are from its f32 ones, on the tiny golden models.

The yardstick for the bounds on ours in bf16 compute (`crates/rag-tune-model/tests/golden.rs`).

    python scripts/check_bf16_gradients.py

Needs torch, transformers, peft and safetensors (scripts/python-env.sh). Prints |difference| / |f32 gradient| over all
factors, and the largest difference of a logit of the base, under autocast (f32 weights, bf16 products) and with the whole model in bf16.
"""

from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

GOLDEN = Path(__file__).resolve().parent.parent / "tests/fixtures/golden"


def gradients(folder: Path, mode: str) -> dict[str, torch.Tensor]:
    base = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).eval()
    if mode == "bf16":
        model = model.bfloat16()
    golden = load_file(folder / "golden.safetensors")
    logits, labels = [], []
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        for sequence in range(2):
            logits.append(model(golden[f"ids.{sequence}"].long()[None]).logits[0].float())
            labels.append(golden[f"labels.{sequence}"].long())
    cross_entropy(torch.cat(logits), torch.cat(labels), ignore_index=-100).backward()
    return {name: parameter.grad.float() for name, parameter in model.named_parameters() if parameter.grad is not None}


def logits(folder: Path, mode: str) -> torch.Tensor:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    if mode == "bf16":
        model = model.bfloat16()
    golden = load_file(folder / "golden.safetensors")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        return torch.cat([model(golden[f"ids.{i}"].long()[None]).logits[0].float() for i in range(2)])


def main() -> None:
    for model in ("tiny_tied", "tiny_untied", "tiny_biases", "tiny_llama3"):
        expected = gradients(GOLDEN / model, "f32")
        norm = sum(float((gradient**2).sum()) for gradient in expected.values())
        for mode in ("autocast", "bf16"):
            got = gradients(GOLDEN / model, mode)
            difference = sum(float(((got[name] - gradient) ** 2).sum()) for name, gradient in expected.items())
            of_logits = float((logits(GOLDEN / model, mode) - logits(GOLDEN / model, "f32")).abs().max())
            print(f"{model} {mode}: {(difference / norm) ** 0.5:.3f}, logits {of_logits:.3f}")


if __name__ == "__main__":
    main()

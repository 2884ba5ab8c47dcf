"""Checks that transformers and bitsandbytes read what `rag-tune quantize` writes, and that they would have written the same.

usage: check_quantize.py BASE_DIR QUANTIZED_DIR [TEXT_FILE]

BASE_DIR is a folder with safetensors, QUANTIZED_DIR what `rag-tune quantize BASE_DIR --out QUANTIZED_DIR` made of it. Compares every
8-bit weight's codes and scales with those that bitsandbytes makes of BASE_DIR, and the logits of both models. With a text it
prints perplexities (windows of 512 tokens) of the model in f32, with the 8-bit weights alone, and as bitsandbytes computes, for `rag-tune perplexity`.

Needs scripts/python-env.sh and bitsandbytes 0.50.2 (pip install --no-deps bitsandbytes==0.50.2). Runs on the CPU, where LLM.int8
takes minutes for a text of 10,000 tokens.
"""

import argparse
import math
from pathlib import Path

import torch
from bitsandbytes.nn import Linear8bitLt
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

WINDOW = 512


def linears(model: torch.nn.Module) -> dict[str, Linear8bitLt]:
    """The 8-bit layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Linear8bitLt)}


@torch.no_grad()
def perplexity(model: torch.nn.Module, windows: list[list[int]]) -> float:
    """e to the mean loss of every token but a window's first."""
    total, count = 0.0, 0
    for window in windows:
        ids = torch.tensor([window])
        logits = model(input_ids=ids).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += len(window) - 1
    return math.exp(total / count)


def dequantize(model: torch.nn.Module) -> None:
    """Puts a plain layer with the same weights in place of each 8-bit one, whose activations are then not quantised."""
    for name, layer in linears(model).items():
        # The first pass takes both out of the weight.
        codes = layer.weight.data if layer.state.CB is None else layer.state.CB
        absmax = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        weight = codes.float() * (absmax / 127).unsqueeze(1)
        plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        plain.weight, plain.bias = torch.nn.Parameter(weight), layer.bias
        model.set_submodule(name, plain)


def main() -> None:
    parser = argparse.ArgumentParser(description="a quantised model, read by transformers and bitsandbytes")
    parser.add_argument("base", type=Path)
    parser.add_argument("quantized", type=Path)
    parser.add_argument("text", type=Path, nargs="?")
    args = parser.parse_args()
    ours = AutoModelForCausalLM.from_pretrained(args.quantized, device_map="cpu", dtype=torch.float32)
    config = BitsAndBytesConfig(load_in_8bit=True)
    theirs = AutoModelForCausalLM.from_pretrained(
        args.base, quantization_config=config, device_map="cpu", dtype=torch.float32
    )
    mine, expected = linears(ours), linears(theirs)
    assert mine.keys() == expected.keys() and mine, "the same layers are in 8 bits"
    codes = 0
    for name, layer in expected.items():
        assert torch.equal(mine[name].weight.data, layer.weight.data), f"codes of {name}"
        assert torch.equal(mine[name].weight.SCB, layer.weight.SCB), f"scales of {name}"
        codes += layer.weight.numel()
    print(f"{len(mine)} layers, {codes} codes: equal to bitsandbytes'")
    ids = torch.tensor([[1, 5, 7, 11, 13, 17, 19, 23]])
    with torch.no_grad():
        difference = (ours(input_ids=ids).logits - theirs(input_ids=ids).logits).abs().max().item()
    print(f"largest difference of a logit: {difference:.3g}")
    if args.text is None:
        return
    ids = AutoTokenizer.from_pretrained(args.base)(args.text.read_text()).input_ids
    windows = [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
    windows = [window for window in windows if len(window) > 1]
    plain = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    print(f"perplexity of PyTorch in f32: {perplexity(plain, windows):.4f}")
    dequantize(ours)
    print(f"perplexity with the dequantised 8-bit weights: {perplexity(ours, windows):.4f}", flush=True)
    print(f"perplexity of bitsandbytes' LLM.int8: {perplexity(theirs, windows):.4f}")


if __name__ == "__main__":
    main()

"""Prints how far the block linears of a model move when they are quantised, and what they then take.

usage: quantization_error.py BASE_DIR    a folder with model.safetensors in f32 (see dequantize_gguf.py)

Needs scripts/python-env.sh and bitsandbytes 0.50.2 (pip install --no-deps bitsandbytes==0.50.2). Runs on the CPU. The
weights are rounded to bf16 first, as models are published. The error is |W - W'| / |W|, Euclidean, over all block linears
at once; beside it that of the layer which suffers most. LLM.int8's codes and NF4's are bitsandbytes' own; rag-tune's
equal them (tests/fixtures/golden/README.md).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from safetensors import safe_open
from torch import Tensor


def int8(weight: Tensor) -> tuple[Tensor, int]:
    codes, absmax, _ = bnb.int8_vectorwise_quant(weight)
    return codes.float() * absmax[:, None] / 127, codes.numel() + 4 * absmax.numel()


def nf4(weight: Tensor, double: bool) -> tuple[Tensor, int]:
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
    count = packed.numel() + state.absmax.numel() * state.absmax.element_size()
    absmax = state.absmax
    if double:
        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
        count += 4 * state.state2.absmax.numel() + 4
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()[: weight.numel()]
    values = state.code[codes.long()] * absmax.repeat_interleave(64)[: weight.numel()]
    return values.reshape(weight.shape), count


def main() -> None:
    parser = argparse.ArgumentParser(description="error and size of quantised weights")
    parser.add_argument("base", type=Path)
    args = parser.parse_args()
    kinds: dict[str, Callable[[Tensor], tuple[Tensor, int]]] = {
        "int8": lambda weight: int8(weight.half()),
        "nf4, scales in f32": lambda weight: nf4(weight, double=False),
        "nf4, double quantisation": lambda weight: nf4(weight, double=True),
    }
    with safe_open(args.base / "model.safetensors", "pt") as file:
        names = [name for name in sorted(file.keys()) if "_proj.weight" in name]
        weights = [file.get_tensor(name).bfloat16().float() for name in names]
    total = sum(weight.numel() for weight in weights)
    print(f"{args.base.name}: {len(weights)} block linears, {total} weights")
    print("| held as | bytes a weight | relative error | worst layer |\n| --- | --- | --- | --- |")
    print("| bf16 | 2 | 0 | 0 |")
    for kind, quantize in kinds.items():
        squares, norms, size, worst = 0.0, 0.0, 0, (0.0, "")
        for name, weight in zip(names, weights, strict=True):
            values, count = quantize(weight)
            square, norm = (weight - values).double().square().sum().item(), weight.double().square().sum().item()
            squares, norms, size = squares + square, norms + norm, size + count
            worst = max(worst, ((square / norm) ** 0.5, name))
        name = worst[1].removeprefix("model.layers.").removesuffix(".weight")
        error = (squares / norms) ** 0.5
        print(f"| {kind} | {size / total:.4f} | {100 * error:.2f} % | {100 * worst[0]:.2f} % ({name}) |")


if __name__ == "__main__":
    main()

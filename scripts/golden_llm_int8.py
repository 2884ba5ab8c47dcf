"""Makes golden numbers of LLM.int8 (arXiv:2208.07339) with bitsandbytes: tests/fixtures/golden/llm_int8.safetensors.

usage: golden_llm_int8.py OUT_DIR

Needs scripts/python-env.sh and bitsandbytes 0.50.2 (pip install --no-deps bitsandbytes==0.50.2). Runs on the CPU, on
bitsandbytes' portable implementation (bitsandbytes/backends/default/ops.py).

  rows.NAME.{input,codes,absmax}      a weight [out, in], and its row-wise codes: cast to f16 first, as `Int8Params` does
  product.NAME.{x,codes,absmax}       activations [tokens, in] (f16) and a weight [out, in] in 8 bits
  product.NAME.{x_codes,x_absmax,columns,output}   what LLM.int8 makes of them: codes of the activations with the outlier
                                      columns left out (threshold 6.0), those columns, and the result (f16)
"""

import argparse
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file
from torch import Tensor

THRESHOLD = 6.0


def weights() -> dict[str, Tensor]:
    """Random and adversarial weights [out, in]."""
    torch.manual_seed(11)
    zeros = 0.02 * torch.randn(6, 40)
    zeros[0] = 0.0
    zeros[3] = -0.0
    zeros[5, 1:] = 0.0
    outlier = 0.01 * torch.randn(5, 96)
    outlier[2, 17] = 300.0
    outlier[4, 95] = -65504.0
    # Below f16's smallest normal number 2^-14, below its smallest number 2^-24, and around half of that.
    denormals = torch.randn(8, 64) * 2.0 ** torch.arange(-12, -28, -2)[:, None]
    # Codes half-way between two integers: absmax 127 gives each value itself as the factor's product.
    ties = torch.cat([torch.tensor([127.0]), torch.arange(-100, 100) + 0.5])[None]
    # Halves that only f16's rounding, or only its absence, makes.
    near = torch.cat([torch.tensor([127.0]), torch.arange(-60, 60) + 0.5 + 1e-4])[None]
    scales = torch.randn(64, 33) * 10 ** (4 * torch.rand(64, 1) - 3)
    return {
        "random": 0.02 * torch.randn(70, 130),
        "wide": 0.02 * torch.randn(3, 700),
        "bf16": (0.02 * torch.randn(66, 64)).to(torch.bfloat16),
        "f16": (0.02 * torch.randn(66, 64)).to(torch.float16),
        "zero_rows": zeros,
        "one_outlier": outlier,
        "denormals": denormals,
        "bf16_denormals": denormals.to(torch.bfloat16),
        "ties": ties,
        "near_ties": near,
        "scales": scales,
        "single": torch.tensor([[-0.3]]),
    }


def rows() -> dict[str, Tensor]:
    """Codes and scales of the weights."""
    result = {}
    for name, weight in weights().items():
        codes, absmax, _ = bnb.int8_vectorwise_quant(weight.to(torch.float16))
        result |= {f"rows.{name}.input": weight, f"rows.{name}.codes": codes, f"rows.{name}.absmax": absmax}
    return result


def activations() -> dict[str, Tensor]:
    """Activations with and without outliers; a single token, for which no column is left out."""
    torch.manual_seed(12)
    plain = torch.randn(9, 200).clamp(-5.9, 5.9)
    columns = torch.randn(17, 200).clamp(-5, 5)
    columns[:, 3] *= 12
    columns[:, 150] = 40 + torch.randn(17)
    some = torch.randn(5, 200).clamp(-5, 5)
    some[2, 77] = -6.0
    some[3, 199] = 1000.0
    single = torch.randn(1, 200).clamp(-5, 5)
    single[0, 8] = 9.5
    zero = torch.randn(4, 200).clamp(-5, 5)
    zero[1] = 0.0
    return {"plain": plain, "columns": columns, "some": some, "single": single, "zero_token": zero}


def products() -> dict[str, Tensor]:
    """`bitsandbytes.matmul`'s own way: vector-wise codes, the outlier columns in f16."""
    result = {}
    for name, x in activations().items():
        x = x.to(torch.float16)
        weight = (0.05 * torch.randn(70, x.shape[1])).to(torch.float16)
        codes, absmax, _ = bnb.int8_vectorwise_quant(weight)
        x_codes, x_absmax, columns = bnb.int8_vectorwise_quant(x.clone(), threshold=THRESHOLD)
        output, _ = torch.ops.bitsandbytes.int8_mixed_scaled_mm(x, x_codes, codes, x_absmax, absmax, columns)
        made = {
            "x": x,
            "codes": codes,
            "absmax": absmax,
            "x_codes": x_codes,
            "x_absmax": x_absmax,
            "columns": columns.to(torch.int32),
            "output": output,
        }
        result |= {f"product.{name}.{part}": tensor for part, tensor in made.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="golden numbers of LLM.int8")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    golden = rows() | products()
    path = args.out / "llm_int8.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in golden.items()}, path)
    print(f"{path}: {len(golden)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

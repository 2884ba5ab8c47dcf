"""Golden blocks of Q8_0, by llama.cpp's own Python package: tests/fixtures/golden/q8_0.safetensors.

needs   Python 3.11 with gguf, numpy, safetensors
run     python scripts/golden_q8_0.py
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent.parent / "tests/fixtures/golden/q8_0.safetensors"


def rows() -> np.ndarray:
    """Weights as they come, and what rounding is decided by: ties, zeros, very large and very small blocks."""
    random = np.random.default_rng(8)
    usual = random.standard_normal((64, 32)) * 0.02
    wide = random.standard_normal((32, 32)) * 10.0 ** random.integers(-9, 6, size=(32, 1))
    halves = np.arange(-16, 16)[None, :] + np.array([0.5, 0.25, 0.0])[:, None]
    halves[:, 0] = -127.0
    special = np.zeros((3, 32))
    special[1, 5] = -0.0
    special[2, :2] = 1e-40, -3e-41
    bf16 = (random.standard_normal((32, 32)).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return np.concatenate([usual, wide, halves, special, bf16]).astype(np.float32)


values = rows()
# The scale of a block of numbers below f32's normal range has no finite inverse, and the codes of that are undefined.
values = values[[not 0 < abs(row).max() < 1e-36 for row in values]]
blocks = quantize(values, GGMLQuantizationType.Q8_0)
save_file({"values": values, "blocks": blocks}, OUT, {"gguf": version("gguf")})
print(f"{len(values)} blocks, gguf {version('gguf')}: {OUT}")

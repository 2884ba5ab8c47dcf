"""Makes golden numbers of bitsandbytes for tests/fixtures/golden/: NF4, 8-bit blocks, AdamW8bit, stored models.

usage: golden_bitsandbytes.py tiny OUT_DIR              bytes of made-up weights, some steps of AdamW8bit, and logits of the
                                                        tiny models that golden_llama.py left in OUT_DIR, in NF4
       golden_bitsandbytes.py stored OUT_DIR            bitsandbytes/*: the tiny models as transformers stores them in NF4 and in
                                                        8 bits (LLM.int8), with logits of what it loads from there
       golden_bitsandbytes.py smollm2 BASE_DIR OUT_DIR  SHA-256 of every block linear's bytes, and logits for the prompts of
                                                        OUT_DIR/smollm2.json (BASE_DIR: see dequantize_gguf.py)

Needs scripts/python-env.sh and bitsandbytes 0.50.2 (pip install --no-deps bitsandbytes==0.50.2). Runs on the CPU.

The CPU library of this version finds 8-bit codes through a table of 65,536 places in [-1, 1], which sends every second moment
below 1/131,072 of its block's maximum to zero, and it dequantises NF4 weights whose rows are shorter than a block with the
scales of other blocks. Its portable implementation (bitsandbytes/backends/default/ops.py) takes the nearest code and the
right scale. Everything here runs on that portable implementation.
"""

import argparse
import hashlib
import importlib
import json
from pathlib import Path

import bitsandbytes
import bitsandbytes._ops
import bitsandbytes.backends.default.ops
import bitsandbytes.functional as bnb
import torch
from golden_llama import all_logits, position_record
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM

TINY_MODELS = ["tiny_tied", "tiny_untied"]
MEAN_LENGTHS = [1, 5, 31, 32, 33, 100, 2400, 13824, 32767, 262144]
OPTIMIZER_STEPS = 4
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
# Of which tiny model, and how it is stored.
STORED = {
    "nf4_double": ("tiny_untied", NF4 | {"bnb_4bit_use_double_quant": True}),
    # As for FSDP: codes under the name of another type, and some layers that are not quantised.
    "nf4_mixed": (
        "tiny_tied",
        NF4 | {"bnb_4bit_quant_storage": torch.bfloat16, "llm_int8_skip_modules": ["down_proj", "lm_head"]},
    ),
    "int8": ("tiny_untied", {"load_in_8bit": True}),
}
LARGEST_DEQUANTIZED = 3000
LIBRARY = torch.library.Library("bitsandbytes", "IMPL")


def use_portable_operations() -> None:
    """Puts bitsandbytes' portable operations in the place of its CPU library's."""
    implementations = {}

    def collect(name: str, _device: str):
        def register(function):
            implementations[name] = function
            return function

        return register

    original = bitsandbytes._ops.register_kernel
    bitsandbytes._ops.register_kernel = collect
    importlib.reload(bitsandbytes.backends.default.ops)
    bitsandbytes._ops.register_kernel = original
    for name in ("quantize_blockwise", "dequantize_blockwise", "dequantize_4bit"):
        LIBRARY.impl(name, implementations[f"bitsandbytes::{name}"], "CPU")


def weights() -> dict[str, Tensor]:
    """Weights of all shapes that a block can meet: rows that end inside a block, an odd count, zeros, ties."""
    torch.manual_seed(5)
    levels = bnb.get_4bit_type("nf4", device="cpu")
    ties = (levels[:-1] + levels[1:]) / 2
    between = [torch.nextafter(ties, ties.new_tensor(to)) for to in (-2.0, 2.0)]
    zeros = 0.02 * torch.randn(8, 64)
    zeros[2:4] = 0.0
    outliers = 0.02 * torch.randn(24, 128)
    outliers[torch.rand(24, 128) < 0.02] *= 40
    return {
        "square": 0.02 * torch.randn(64, 64),
        "bf16": (0.02 * torch.randn(40, 64)).to(torch.bfloat16),
        "f16": (0.02 * torch.randn(40, 64)).to(torch.float16),
        "rows_across_blocks": 0.05 * torch.randn(70, 90),
        "odd": torch.randn(7, 11),
        "one_left": torch.randn(5, 77),
        "single": torch.tensor([[-0.3]]),
        "zero_blocks": zeros,
        "zero_rest": torch.cat([torch.randn(1, 64), torch.zeros(1, 64)], dim=1)[:, :80],
        "all_zero": torch.zeros(2, 40),
        "ties": torch.cat([ties, *between, torch.tensor([1.0] * 19)])[None],
        "outliers": outliers,
        "many_blocks": (0.02 * torch.randn(200, 192)).to(torch.bfloat16),
    }


def quantized(name: str, weight: Tensor) -> dict[str, Tensor]:
    """What bitsandbytes makes of one weight, without and with double quantisation."""
    result = {f"nf4.{name}.input": weight}
    for kind, compress in (("plain", False), ("double", True)):
        packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=compress)
        tensors = state.as_dict(packed=True)
        result[f"nf4.{name}.weight"] = packed
        result[f"nf4.{name}.{kind}.absmax"] = tensors["absmax"]
        if weight.numel() <= LARGEST_DEQUANTIZED:
            # In f32, whatever the weight was: a 16-bit result is this one rounded.
            state.dtype = torch.float32
            result[f"nf4.{name}.{kind}.dequantized"] = bnb.dequantize_4bit(packed, state).reshape(weight.shape)
        if compress:
            result[f"nf4.{name}.nested_absmax"] = tensors["nested_absmax"]
            result[f"nf4.{name}.offset"] = state.offset
    return result


def blockwise() -> dict[str, Tensor]:
    """8-bit codes in blocks of 256, of both maps, ties and zeros included."""
    torch.manual_seed(6)
    result = {}
    for signed in (True, False):
        kind = "signed" if signed else "unsigned"
        code = bnb.create_dynamic_map(signed=signed)
        ties = torch.cat([(code[:-1] + code[1:]) / 2, torch.tensor([1.0])])
        # Magnitudes over seven decades, as moments have them.
        spread = torch.randn(700) * 10 ** (-7 * torch.rand(700))
        values = torch.cat([ties, torch.zeros(256), spread if signed else spread.abs()])
        codes, state = bnb.quantize_blockwise(values, code=code, blocksize=256)
        result |= {
            f"map.{kind}": code,
            f"blockwise.{kind}.input": values,
            f"blockwise.{kind}.codes": codes,
            f"blockwise.{kind}.absmax": state.absmax,
            f"blockwise.{kind}.dequantized": bnb.dequantize_blockwise(codes, state),
        }
    return result


def means() -> dict[str, Tensor]:
    """PyTorch's mean on one thread, of values that the test makes itself: its order of summation decides the last bit."""
    result = {}
    for length in MEAN_LENGTHS:
        values = ((torch.arange(length) * 2654435761 % (1 << 32)) >> 8).float() / (1 << 24)
        result[f"mean.{length}"] = values.mean()
    return result


def optimizer() -> dict[str, Tensor]:
    """Steps of `AdamW8bit` on a tensor with 8-bit state and on one that is too small for it."""
    torch.manual_seed(7)
    shapes = {"large": (4296,), "small": (50,)}
    parameters = {name: torch.nn.Parameter(0.1 * torch.randn(shape)) for name, shape in shapes.items()}
    result = {f"adamw.{name}.parameter.0": value.detach().clone() for name, value in parameters.items()}
    # Exact in f32 as in f64: what differs is then the arithmetic, not the constants.
    constants = {"lr": 1 / 128, "betas": (0.875, 0.984375), "eps": 1e-8, "weight_decay": 0.125}
    adamw = bitsandbytes.optim.AdamW8bit(parameters.values(), **constants)
    for step in range(1, OPTIMIZER_STEPS + 1):
        for name, parameter in parameters.items():
            gradient = torch.randn(parameter.shape) * 10 ** (-4 * torch.rand(parameter.shape))
            parameter.grad = gradient.to(torch.bfloat16).float()
            result[f"adamw.{name}.gradient.{step}"] = gradient.to(torch.bfloat16)
        adamw.step()
        for name, parameter in parameters.items():
            state = adamw.state[parameter]
            result[f"adamw.{name}.parameter.{step}"] = parameter.detach().clone()
            for key in ("state1", "state2", "absmax1", "absmax2"):
                if key in state:
                    result[f"adamw.{name}.{key}.{step}"] = state[key].clone()
    return result


def load(folder: Path) -> LlamaForCausalLM:
    """A Llama in f32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def quantize_model(model: LlamaForCausalLM) -> dict[str, str]:
    """Replaces the block linears by what NF4 leaves of them, embeddings and lm_head by what bf16 does.

    Returns SHA-256 of each linear's codes, quantised absmax, nested absmax and offset.
    """
    digests = {}
    for name, module in model.model.named_modules():
        if isinstance(module, nn.Linear):
            packed, state = bnb.quantize_4bit(module.weight, quant_type="nf4", compress_statistics=True)
            parts = [packed, state.absmax, state.state2.absmax, state.offset]
            data = b"".join(part.numpy().tobytes() for part in parts)
            digests[f"model.{name}.weight"] = hashlib.sha256(data).hexdigest()
            module.weight.copy_(bnb.dequantize_4bit(packed, state).reshape(module.weight.shape))
    for weight in {model.model.embed_tokens.weight, model.lm_head.weight}:
        weight.copy_(weight.to(torch.bfloat16))
    return digests


def write_tiny(out: Path) -> None:
    """bitsandbytes.safetensors, and nf4_logits.safetensors beside each tiny model."""
    golden = blockwise() | means() | optimizer()
    for name, weight in weights().items():
        golden |= quantized(name, weight)
    path = out / "bitsandbytes.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in golden.items()}, path)
    print(f"{path}: {len(golden)} tensors, {path.stat().st_size} bytes")
    for name in TINY_MODELS:
        model = load(out / name)
        quantize_model(model)
        given = load_file(out / name / "golden.safetensors")
        with torch.no_grad():
            logits = all_logits(model, [given["ids.0"], given["ids.1"]])
        tensors = {f"nf4_logits.{i}": tensor.contiguous() for i, tensor in enumerate(logits)}
        save_file(tensors, out / name / "nf4_logits.safetensors")


@torch.no_grad()
def dequantized(base: Path, stored: Path) -> LlamaForCausalLM:
    """The model of `base` in f32, with the weights that transformers and bitsandbytes read from `stored`."""
    quantized_model = AutoModelForCausalLM.from_pretrained(stored, device_map="cpu")
    modules = dict(quantized_model.named_modules())
    model = load(base)
    for name, parameter in model.named_parameters():
        owner = modules[name.removesuffix(".weight")]
        if isinstance(owner, bitsandbytes.nn.Linear4bit):
            owner.weight.quant_state.dtype = torch.float32
            value = bnb.dequantize_4bit(owner.weight.data, owner.weight.quant_state)
        elif isinstance(owner, bitsandbytes.nn.Linear8bitLt):
            value = bnb.int8_vectorwise_dequant(owner.weight.data, owner.weight.SCB)
        else:
            value = owner.weight
        parameter.copy_(value.reshape(parameter.shape))
    return model


def write_stored(out: Path) -> None:
    """bitsandbytes/*/{config.json,model.safetensors,logits.safetensors}"""
    for name, (tiny, settings) in STORED.items():
        folder = out / "bitsandbytes" / name
        config = BitsAndBytesConfig(**settings)
        model = AutoModelForCausalLM.from_pretrained(
            out / tiny, dtype=torch.bfloat16, quantization_config=config, device_map="cpu"
        )
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        given = load_file(out / tiny / "golden.safetensors")
        with torch.no_grad():
            logits = all_logits(dequantized(out / tiny, folder), [given["ids.0"], given["ids.1"]])
        tensors = {f"logits.{i}": tensor.contiguous() for i, tensor in enumerate(logits)}
        save_file(tensors, folder / "logits.safetensors")
        print(f"{folder}: {(folder / 'model.safetensors').stat().st_size} bytes")


def write_smollm2(base: Path, out: Path) -> None:
    """smollm2_nf4.json"""
    model = load(base)
    digests = quantize_model(model)
    logits = {}
    for prompt in json.loads((out / "smollm2.json").read_text()):
        with torch.no_grad():
            values = model(input_ids=torch.tensor([prompt["ids"]])).logits[0]
        logits[prompt["name"]] = [position_record(values[-2]), position_record(values[-1])]
    path = out / "smollm2_nf4.json"
    path.write_text(json.dumps({"logits": logits, "sha256": digests}) + "\n")
    print(f"{path}: {len(digests)} weights")


def main() -> None:
    parser = argparse.ArgumentParser(description="golden bytes from bitsandbytes")
    commands = parser.add_subparsers(dest="command", required=True)
    tiny = commands.add_parser("tiny", help="made-up weights and AdamW8bit")
    tiny.add_argument("out", type=Path)
    stored = commands.add_parser("stored", help="tiny models as transformers stores them")
    stored.add_argument("out", type=Path)
    smollm2 = commands.add_parser("smollm2", help="SmolLM2-135M-Instruct")
    smollm2.add_argument("base", type=Path)
    smollm2.add_argument("out", type=Path)
    args = parser.parse_args()
    # The mean of more than 32,768 values depends on the number of PyTorch's threads.
    torch.set_num_threads(1)
    use_portable_operations()
    if args.command == "tiny":
        write_tiny(args.out)
    elif args.command == "stored":
        write_stored(args.out)
    else:
        write_smollm2(args.base, args.out)


if __name__ == "__main__":
    main()

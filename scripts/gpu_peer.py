#!/usr/bin/env python3
"""PyTorch + PEFT + bitsandbytes on one GPU, in CodeLlama-7B's shape with random weights: what `rag-tune bench` is compared with.

usage: gpu_peer.py train|decode|peaks [--base int8|bf16] [--batch N ...] [--seq N ...] [--steps N] [--checkpointing on|off]
                                      [--device cuda:0] [--shape codellama-7b|tiny] [--layers N] ...

Each pair of --batch and --seq gives one line of JSON, with the figures' names of `rag-tune bench --json` where they mean the same; a
pair that fails gives a line with `error`. Weights are made on the device: no checkpoint, no network.

- train: whole steps (forward, loss on every token, backward, clipping, AdamW) of a LoRA on q, k, v, o, under bf16 autocast. An int8 base
  is what load_in_8bit and prepare_model_for_kbit_training make: Linear8bitLt with threshold 6, the head left out, the rest in f32. Then
  bitsandbytes multiplies in f32 in the backward pass; `--rest bf16` leaves that step out and is the stronger peer. Random activations
  have next to no outliers, so that LLM.int8's 16-bit part is cheaper than with real weights.
- decode: transformers' greedy generate() with its cache; decoding is what it takes beyond one new token.
- peaks: what no kernel is faster than: copying memory, a bf16 product, attention's forward and backward pass by PyTorch.

Needs PyTorch and transformers, with peft, accelerate and bitsandbytes (scripts/gpu-pack.sh takes these along). `--device cpu --shape tiny`
tries it anywhere.
"""

import argparse
import gc
import importlib.metadata
import json
import logging
import os
import resource
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
SHAPES = {
    "codellama-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32016,
        "max_position_embeddings": 16384,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 512,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
}


def is_gpu(device: torch.device) -> bool:
    """Whether it is a GPU that is there."""
    return device.type == "cuda" and torch.cuda.is_available()


def synchronize(device: torch.device) -> None:
    """Waits for the device's work."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, the device's part included."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def operations_per_s(device: torch.device, operations: float, work: Callable[[], object]) -> float:
    """Of `work`, repeated so that launches do not count; the best of three."""
    rounds = 10 if is_gpu(device) else 1

    def repeated() -> None:
        for _ in range(rounds):
            work()

    repeated()
    return rounds * operations / min(timed(device, repeated) for _ in range(3))


def matmul_op_per_s(args: argparse.Namespace) -> float:
    """A bf16 product of square matrices; of random numbers, since a GPU is faster on zeros."""
    size = 512 if args.shape == "tiny" else 8192
    a, b = (torch.randn(size, size, device=args.device, dtype=torch.bfloat16) for _ in range(2))
    return operations_per_s(args.device, 2.0 * size**3, lambda: a @ b)


def copy_bytes_per_s(args: argparse.Namespace) -> float:
    """A copy within the device's memory; read and written bytes both count."""
    size = 1 << (24 if args.shape == "tiny" else 31)
    source, to = (torch.zeros(size, device=args.device, dtype=torch.uint8) for _ in range(2))
    return operations_per_s(args.device, 2.0 * size, lambda: to.copy_(source))


def free(device: torch.device) -> None:
    """Gives unused memory back to the device, and starts the count of the most used afresh."""
    gc.collect()
    if is_gpu(device):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def version(package: str) -> str | None:
    """The installed version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def measured(value: float | list[float]) -> float | list[float]:
    """To four significant digits, as `rag-tune bench` prints."""
    if isinstance(value, list):
        return [measured(each) for each in value]
    return float(f"{value:.3e}")


def memory(device: torch.device) -> dict:
    """The most memory held so far. On a device: by all programs, as rag-tune counts it, and by tensors alone."""
    figures = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "peak_gpu_mib": None}
    if is_gpu(device):
        free_bytes, total = torch.cuda.mem_get_info(device)
        figures["peak_gpu_mib"] = (total - free_bytes) / 2**20
        figures["peak_gpu_tensors_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return {name: value if value is None else measured(value) for name, value in figures.items()}


class Flop:
    """Operations of matrix products, counted as crates/rag-tune-model/src/flop.rs does."""

    def __init__(self, args: argparse.Namespace, config) -> None:
        hidden, heads = config.hidden_size, config.num_key_value_heads / config.num_attention_heads
        attention = (2 + 2 * heads) * hidden * hidden
        self.block_weights = config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size)
        self.head_weights = config.vocab_size * hidden
        # q, o: [hidden, hidden]; k, v: [heads of keys * head_dim, hidden].
        self.lora_weights = config.num_hidden_layers * args.rank * hidden * (2 * 2 + 2 * (1 + heads))
        self.per_pair = 4 * config.num_hidden_layers * hidden

    def forward(self, batch: int, seq: int, logits: int, lora: bool) -> float:
        """Of a pass that ends in so many logits."""
        tokens, pairs = batch * seq, batch * seq * (seq + 1) // 2
        weights = self.block_weights + lora * self.lora_weights
        return 2 * weights * tokens + self.per_pair * pairs + 2 * self.head_weights * logits

    def training(self, batch: int, seq: int, recompute: bool) -> float:
        """Of a forward and backward pass; `recompute`: with every block's second forward pass."""
        logits = batch * (seq - 1)
        forward = self.forward(batch, seq, logits, lora=True)
        pairs = batch * seq * (seq + 1) // 2
        backward = forward + 2 * self.lora_weights * batch * seq + 1.5 * self.per_pair * pairs
        return forward + backward + recompute * (forward - 2 * self.head_weights * logits)


def quantise(model) -> None:
    """Puts a Linear8bitLt in the place of every linear layer but the head, as transformers' load_in_8bit does, on the device itself."""
    import bitsandbytes as bnb

    linear = [(name, module) for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    for name, module in linear:
        if name == "lm_head":
            continue
        layer = bnb.nn.Linear8bitLt(
            module.in_features,
            module.out_features,
            bias=False,
            has_fp16_weights=False,
            threshold=6.0,
            device="meta",
        )
        codes, absmax, _ = bnb.functional.int8_vectorwise_quant(module.weight.detach().half())
        layer.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=absmax)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    model.is_loaded_in_8bit = True


def build(args: argparse.Namespace):
    """The model, of noise."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = SHAPES[args.shape] | ({"num_hidden_layers": args.layers} if args.layers else {})
    # Without an end every answer has its full length.
    config = LlamaConfig(**shape, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=None, pad_token_id=0)
    torch.manual_seed(0)
    with args.device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = model.to(args.device).requires_grad_(False)
    if args.base == "int8":
        quantise(model)
    free(args.device)
    return model.eval()


def with_lora(args: argparse.Namespace, model):
    """The model with a fresh LoRA, ready for training."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    checkpointing, keywords = args.checkpointing == "on", {"use_reentrant": False}
    if args.base == "int8" and args.rest == "f32":
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs=keywords
        )
    elif checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=keywords)
    model.config.use_cache = False
    settings = LoraConfig(
        r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, settings).train()


def weight_bytes(model) -> int:
    """Bytes of the base model's weights."""
    return sum(it.numel() * it.element_size() for it in model.parameters() if not it.requires_grad)


def bytes_per_pass(model) -> int:
    """Bytes of the weights that a pass reads however few its tokens: of all but the embedding."""
    embedding = model.get_input_embeddings().weight
    return weight_bytes(model) - embedding.numel() * embedding.element_size()


def steps(seconds: list[float], cpu_s: float, tokens: int) -> dict:
    """The figures of repeated steps."""
    median = statistics.median(seconds)
    return {
        "tokens_per_s": measured(tokens / median),
        "step_s": measured(median),
        "cpu_s": measured(cpu_s / len(seconds)),
        "step_samples_s": measured(seconds),
    }


def samples(args: argparse.Namespace, work: Callable[[], object]) -> tuple[list, float]:
    """What `work` returns after those times that are not counted, and the processor's seconds."""
    for _ in range(args.warmup):
        work()
    start = time.process_time()
    return [work() for _ in range(args.steps)], time.process_time() - start


def random_ids(args: argparse.Namespace, model, batch: int, seq: int) -> torch.Tensor:
    """`[batch, seq]` ids."""
    return torch.randint(3, model.config.vocab_size, (batch, seq), device=args.device)


def train(args: argparse.Namespace, model, peak: float) -> Callable[[int, int], dict]:
    """Times training of `batch` rows of `seq` tokens."""
    model = with_lora(args, model)
    flop = Flop(args, model.config)
    trained = [it for it in model.parameters() if it.requires_grad]

    def step(ids: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
        def work() -> None:
            with torch.autocast(args.device.type, dtype=torch.bfloat16):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return timed(args.device, work)

    def run(batch: int, seq: int) -> dict:
        for it in trained:
            it.grad = None
        ids, optimizer = random_ids(args, model, batch, seq), torch.optim.AdamW(trained, lr=3e-4)
        seconds, cpu_s = samples(args, lambda: step(ids, optimizer))
        done = flop.training(batch, seq, args.checkpointing == "on")
        return (
            {"rank": args.rank, "weight_bytes": weight_bytes(model)}
            | steps(seconds, cpu_s, batch * seq)
            | {
                "share_of_peak": measured(done / statistics.median(seconds) / peak),
                "flop_per_token": measured(flop.training(batch, seq, recompute=False) / (batch * seq)),
            }
        )

    return run


def decode(args: argparse.Namespace, model, peak: float) -> Callable[[int, int], dict]:
    """Times greedy answers to `batch` prompts of `seq` tokens."""
    config, flop = model.config, Flop(args, model.config)
    bandwidth = copy_bytes_per_s(args)

    def answer(ids: torch.Tensor, new: int) -> float:
        options = {"max_new_tokens": new, "do_sample": False, "attention_mask": torch.ones_like(ids)}
        return timed(args.device, lambda: model.generate(ids, **options))

    def step(ids: torch.Tensor) -> tuple[float, float]:
        prefill = answer(ids, 1)
        return prefill, answer(ids, args.new) - prefill

    @torch.inference_mode()
    def run(batch: int, seq: int) -> dict:
        ids = random_ids(args, model, batch, seq)
        pairs, cpu_s = samples(args, lambda: step(ids))
        prefills, decodes = ([pair[at] for pair in pairs] for at in (0, 1))
        prefill_s, decode_s = statistics.median(prefills), statistics.median(decodes)
        passes = args.new - 1
        # Each pass reads the keys and values of what came before it and its own: 2 of 2 bytes a layer and element.
        cached = sum(seq + at + 1 for at in range(passes))
        of_token = 4 * config.num_hidden_layers * config.hidden_size
        of_token = of_token * config.num_key_value_heads // config.num_attention_heads
        read = passes * bytes_per_pass(model) + batch * cached * of_token
        return (
            {"new": args.new, "weight_bytes": weight_bytes(model)}
            | steps([sum(pair) for pair in pairs], cpu_s, batch * args.new)
            | {
                "prefill_samples_s": measured(prefills),
                "decode_samples_s": measured(decodes),
                "prefill_s": measured(prefill_s),
                "prefill_tokens_per_s": measured(batch * seq / prefill_s),
                "decode_s": measured(decode_s),
                "decode_tokens_per_s": measured(batch * passes / decode_s),
                "decode_bytes": measured(read),
                "share_of_peak": measured(flop.forward(batch, seq, batch, lora=False) / prefill_s / peak),
                "share_of_bandwidth": measured(read / decode_s / bandwidth),
            }
        )

    return run


def attention_op_per_s(args: argparse.Namespace, backend: SDPBackend) -> dict:
    """Causal attention over rows of 4,096 tokens by 32 heads of 128; what is masked does not count."""
    batch, heads, seq, width = (1, 2, 256, 32) if args.shape == "tiny" else (4, 32, 4096, 128)
    size = (batch, heads, seq, width)
    q, k, v, gradient = (torch.randn(size, device=args.device, dtype=torch.bfloat16) for _ in range(4))
    forward_op = 4.0 * batch * heads * width * seq * (seq + 1) / 2
    with sdpa_kernel(backend):
        with torch.no_grad():
            forward = operations_per_s(
                args.device, forward_op, lambda: scaled_dot_product_attention(q, k, v, is_causal=True)
            )
        inputs = [it.requires_grad_() for it in (q, k, v)]
        y = scaled_dot_product_attention(*inputs, is_causal=True)
        backward = operations_per_s(
            args.device, 2.5 * forward_op, lambda: torch.autograd.grad(y, inputs, gradient, retain_graph=True)
        )
    return {"forward": forward, "backward": backward}


def peaks(args: argparse.Namespace) -> dict:
    """What no kernel is faster than."""
    figures = machine(args)
    figures["matmul_op_per_s"] = measured(matmul_op_per_s(args))
    figures["copy_bytes_per_s"] = measured(copy_bytes_per_s(args))
    for name, backend in [("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)]:
        try:
            for way, speed in attention_op_per_s(args, backend).items():
                figures[f"{name}_{way}_op_per_s"] = measured(speed)
        except RuntimeError as error:  # not on this device, or not in this PyTorch
            figures[f"{name}_error"] = told(error)
    return figures


def machine(args: argparse.Namespace) -> dict:
    """What the figures were measured on and with."""
    packages = ["torch", "transformers", "peft", "accelerate", "bitsandbytes"]
    return {
        "device": torch.cuda.get_device_name(args.device) if is_gpu(args.device) else str(args.device),
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in packages} | {"cuda": torch.version.cuda},
    }


def told(error: Exception) -> str:
    """A failure in one line; running out of memory by name."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".replace('"', "'")


def attempt(work: Callable[..., dict], *values: object) -> dict:
    """The figures that `work` finds, or an `error`. What a failure held is free again when this returns."""
    try:
        return work(*values)
    except Exception as error:
        traceback.print_exc()
        return {"error": told(error)}


def say(figures: dict) -> None:
    """One line, written at once: a time limit must not take what is done."""
    print(json.dumps(figures, separators=(",", ":")), flush=True)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="PyTorch + PEFT + bitsandbytes in CodeLlama-7B's shape")
    parser.add_argument("work", choices=["train", "decode", "peaks"])
    parser.add_argument("--base", choices=["int8", "bf16"], default="int8")
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="rows at a time; several are run in turn")
    parser.add_argument("--seq", type=int, nargs="+", default=[256], help="one for all, or one for each --batch")
    parser.add_argument("--new", type=int, default=64, help="decode: tokens after each prompt")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--checkpointing", choices=["on", "off"], default="on")
    parser.add_argument("--rest", choices=["f32", "bf16"], default="f32", help="train, int8: what is not quantised")
    parser.add_argument("--device", type=torch.device, default="cuda:0")
    parser.add_argument("--shape", choices=SHAPES, default="codellama-7b")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the shape has")
    args = parser.parse_args()
    if len(args.seq) == 1:
        args.seq *= len(args.batch)
    if len(args.seq) != len(args.batch):
        parser.error("--seq needs one value, or as many as --batch")
    if args.work == "decode" and args.new < 2:
        parser.error("--new must be 2 or more")
    return args


def main() -> int:
    args = parsed()
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # It warns of the cast to f16 at every product.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if args.work == "peaks":
        figures = {"work": "peaks"} | attempt(peaks, args)
        say(figures)
        return int("error" in figures)

    started = time.perf_counter()
    run, peak = None, None

    def prepare() -> dict:
        nonlocal run, peak
        peak = matmul_op_per_s(args)
        run = {"train": train, "decode": decode}[args.work](args, build(args), peak)
        return {"matmul_op_per_s": measured(peak), "start_s": measured(time.perf_counter() - started)}

    prepared, failed = attempt(prepare), False
    for batch, seq in zip(args.batch, args.seq):
        free(args.device)
        figures = {
            "work": {"train": "train", "decode": "generate"}[args.work],
            "model": f"{args.shape} (noise)",
            "compute": "bf16",
            "quantization": {"int8": "int8", "bf16": "none"}[args.base],
            "checkpointing": args.checkpointing if args.work == "train" else None,
            "rest": args.rest if args.work == "train" and args.base == "int8" else "bf16",
            "batch": batch,
            "seq": seq,
        }
        figures |= machine(args) | prepared
        if "error" not in prepared:
            figures |= attempt(run, batch, seq) | memory(args.device)
        failed |= "error" in figures
        say(figures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

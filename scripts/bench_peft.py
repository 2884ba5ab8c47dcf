"""Training throughput and memory of PyTorch with PEFT: the figures that rag-tune is measured against.

usage: bench_peft.py BASE_DIR [--rows 8] [--tokens 256] [--steps 5] [--rank 8] [--dtype f32,bf16] [--json]

Full optimizer steps (forward, loss on every token, backward, AdamW) of a LoRA on q, k, v, o with random ids;
the first step is not counted; the median of the others is shown. Each dtype runs in a process of its own, so
that peak memory is its own. BASE_DIR: scripts/dequantize_gguf.py. Needs scripts/python-env.sh.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

DTYPES = ["f32", "bf16"]


@dataclass
class Result:
    """One line of the table."""

    dtype: str
    tokens_per_s: float
    seconds_per_step: float
    peak_rss_mib: float
    threads: int
    torch: str


def measure(base: Path, dtype: str, rows: int, tokens: int, steps: int, rank: int) -> Result:
    """Trains `steps + 1` steps and reports the median of the last `steps`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype])
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    )
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.randint(0, model.config.vocab_size, (rows, tokens))
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    return Result(
        dtype=dtype,
        tokens_per_s=round(rows * tokens / median, 1),
        seconds_per_step=round(median, 3),
        peak_rss_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="LoRA training throughput of PyTorch + PEFT on the CPU")
    parser.add_argument("base", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", default=",".join(DTYPES), help="comma-separated, of f32 and bf16")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    dtypes = args.dtype.split(",")
    if unknown := set(dtypes) - set(DTYPES):
        parser.error(f"--dtype knows {DTYPES}, not {sorted(unknown)}")

    results = []
    for dtype in dtypes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results.append(pool.apply(measure, (args.base, dtype, args.rows, args.tokens, args.steps, args.rank)))
    if args.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    print(
        f"PEFT LoRA rank {args.rank}, {args.rows} x {args.tokens} tokens, median of {args.steps} steps, "
        f"{results[0].threads} threads, torch {results[0].torch}"
    )
    print("| train | tokens/s | s/step | peak RSS MiB |\n| --- | --- | --- | --- |")
    for r in results:
        print(f"| {r.dtype} | {r.tokens_per_s:.0f} | {r.seconds_per_step:.2f} | {r.peak_rss_mib:.0f} |")


if __name__ == "__main__":
    main()

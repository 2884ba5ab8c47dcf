"""Runs `rag-tune bench` and scripts/bench_peer.py in turns, and prints one Markdown table. Called by scripts/bench-cpu.sh.

usage: bench_cpu.py --rag-tune BINARY --gguf MODEL --folder MODEL --q8 MODEL --encoder FOLDER [--count 5] [--with-f32]
                    [--charts FILE]

Every work is measured in two turns (theirs, ours, theirs, ours), and the median of the steps of both is told; steps after one
a turn that is not counted. `--charts` sweeps threads, tokens and sequence length instead, and writes JSON lines for
`rag-tune bench chart`.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

TURNS = 2
PEER = Path(__file__).with_name("bench_peer.py")


@dataclass
class Row:
    """A line of the table: rates in items a second."""

    work: str
    peer: str
    theirs: float | None
    ours: float
    share: str
    memory: str = "-"

    def line(self) -> str:
        theirs, ratio = ("-", "-") if self.theirs is None else (number(self.theirs), f"{self.ours / self.theirs:.2f}")
        return (
            f"| {self.work} | {self.peer} | {theirs} | {number(self.ours)} | {ratio} | {self.share} | {self.memory} |"
        )


def number(value: float) -> str:
    """Three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float | None, of: str) -> str:
    return "-" if share is None else f"{100 * share:.0f} % of {of}"


class Bench:
    """The programs, and how often each is run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}

    def run(self, command: list[str]) -> dict:
        """The figures that a command prints."""
        start = time.perf_counter()
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=self.environment)
        if done.returncode != 0:
            raise SystemExit(f"bench_cpu: `{' '.join(command)}` failed:\n{done.stderr}")
        print(f"{time.perf_counter() - start:6.1f} s  {' '.join(command[1:])}", file=sys.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def ours(self, work: str, *options: str | int, steps: int | None = None) -> dict:
        command = [self.args.rag_tune, "bench", work, "--json", *map(str, options)]
        return self.run(command + ([] if steps is None else ["--steps", str(steps)]))

    def theirs(self, work: str, model: str, *options: str | int, steps: int) -> dict:
        return self.run([sys.executable, str(PEER), work, model, *map(str, options), "--steps", str(steps)])

    def turns(self, *programs) -> list[list[dict]]:
        """What each program prints in its turns; each is called with the number of steps."""
        steps = math.ceil(self.args.count / TURNS)
        figures = [[] for _ in programs]
        for _ in range(TURNS):
            for printed, program in zip(figures, programs):
                printed.append(program(steps=steps))
        return figures


def rate(figures: list[dict], samples: str, items: int) -> float:
    """Items a second by the median of all turns' samples."""
    return items / statistics.median([seconds for turn in figures for seconds in turn[samples]])


def share(figures: list[dict], name: str) -> float | None:
    values = [turn[name] for turn in figures if turn.get(name) is not None]
    return statistics.mean(values) if values else None


def gib(figures: list[dict]) -> str:
    return f"{max(turn['peak_rss_mib'] for turn in figures) / 1024:.1f}"


def training_rows(bench: Bench) -> list[Row]:
    """A training step, and the forward pass up to the loss."""
    args, rows = bench.args, []
    dtypes = ["bf16", "f32"] if args.with_f32 else ["bf16"]
    for work, name in [("train", "train, 8 x 256"), ("forward", "forward and loss, 8 x 256")]:
        peers = [partial(bench.theirs, work, args.folder, "--dtype", dtype) for dtype in dtypes]
        *theirs, ours = bench.turns(*peers, partial(bench.ours, work, "--base", args.gguf))
        for dtype, figures in zip(dtypes, theirs):
            rows.append(
                Row(
                    name,
                    f"PyTorch {dtype}",
                    rate(figures, "step_samples_s", 8 * 256),
                    rate(ours, "step_samples_s", 8 * 256),
                    percent(share(ours, "share_of_peak"), ours[0]["compute"]),
                    f"{gib(figures)} / {gib(ours)}",
                )
            )
    return rows


def generation_rows(bench: Bench) -> list[Row]:
    """Prefill and decoding beside PyTorch and llama.cpp."""
    args, rows = bench.args, []
    for batch, new in [(1, 64), (32, 32)]:
        size = ["--batch", batch, "--seq", 128, "--new", new]
        torch, llama, ours = bench.turns(
            partial(bench.theirs, "generate", args.folder, *size),
            partial(bench.theirs, "llama-cpp", args.q8, *size),
            partial(bench.ours, "generate", "--base", args.gguf, *size),
        )
        for part, items in [("prefill", batch * 128), ("decode", batch * (new - 1))]:
            samples = f"{part}_samples_s"
            of = percent(share(ours, "share_of_peak"), ours[0]["compute"])
            if part == "decode":
                of = percent(share(ours, "share_of_bandwidth"), "memory")
            for peer, figures in [("PyTorch bf16", torch), ("llama.cpp Q8_0", llama)]:
                name = f"{part}, {batch} x 128" if part == "prefill" else f"decode, batch {batch}"
                theirs, mine = rate(figures, samples, items), rate(ours, samples, items)
                rows.append(Row(name, peer, theirs, mine, of, f"{gib(figures)} / {gib(ours)}"))
    return rows


def large_model_rows(bench: Bench) -> list[Row]:
    """A 7B in noise: nothing to compare with but the ceilings."""
    size = ["--seq", 512, "--new", 9, "--warmup", 1]
    ours = [bench.ours("generate", "--synthetic", "codellama-7b", *size, steps=bench.args.count)]
    prefill, decode = rate(ours, "prefill_samples_s", 512), rate(ours, "decode_samples_s", 8)
    of_peak = percent(ours[0]["share_of_peak"], ours[0]["compute"])
    of_memory = percent(ours[0]["share_of_bandwidth"], "memory")
    return [
        Row("CodeLlama-7B (noise), prefill 512", "-", None, prefill, of_peak, f"- / {gib(ours)}"),
        Row("CodeLlama-7B (noise), decode", "-", None, decode, of_memory, f"- / {gib(ours)}"),
    ]


def embedding_rows(bench: Bench) -> list[Row]:
    """Sentences to vectors."""
    args, rows = bench.args, []
    sentences = Path(args.scratch) / "sentences.txt"
    bench.ours(
        "embed", "--base", args.encoder, "--save-sentences", sentences, "--sentences", 4000, "--warmup", 0, steps=1
    )
    options = ["--batch", 32, "--sentences", sentences]
    *theirs, ours = bench.turns(
        partial(bench.theirs, "embed", args.encoder, *options, "--dtype", "f32"),
        partial(bench.theirs, "embed", args.encoder, *options, "--dtype", "bf16"),
        partial(bench.ours, "embed", "--base", args.encoder),
    )
    for dtype, figures in zip(["f32", "bf16"], theirs):
        peer, mine = rate(figures, "step_samples_s", 4000), rate(ours, "step_samples_s", 4000)
        memory = f"{gib(figures)} / {gib(ours)}"
        rows.append(Row("MiniLM, 4,000 sentences", f"sentence-transformers {dtype}", peer, mine, "-", memory))
    return rows


def machine() -> str:
    """The processor, as the system names it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} threads, {memory:.0f} GiB, {platform.system()}"


def versions() -> str:
    from importlib.metadata import version

    names = ["torch", "transformers", "peft", "sentence-transformers", "llama-cpp-python"]
    return ", ".join(f"{name} {version(name)}" for name in names)


def ceilings(bench: Bench) -> str:
    figures = bench.ours("ceilings")
    giga = {name: figures[name] / 1e9 for name in figures if name.endswith("_per_s")}
    return (
        f"f32 {giga['f32_op_per_s']:.0f} GFLOP/s, bf16 {giga['bf16_op_per_s']:.0f} GFLOP/s, "
        f"int8 {giga['int8_op_per_s']:.0f} GOP/s, memory read {giga['memory_read_bytes_per_s']:.1f} GB/s"
    )


def table(bench: Bench) -> None:
    """Prints the table, its rows as they come."""
    print(f"Machine: {machine()}. {versions()}. Ceilings before: {ceilings(bench)}.\n")
    print("| work | theirs is | theirs /s | ours /s | ratio | share of the ceiling | peak GiB, theirs / ours |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for rows in (training_rows, generation_rows, large_model_rows, embedding_rows):
        for row in rows(bench):
            print(row.line(), flush=True)
    print(f"\nCeilings after: {ceilings(bench)}.")


def sweeps(bench: Bench) -> None:
    """JSON lines of ours, and of PyTorch's where a step takes seconds, for charts."""
    cores = os.cpu_count() or 1
    points = [("threads", 8, 256, threads) for threads in sorted({1, 2, cores} & set(range(1, cores + 1)))]
    points += [("tokens", max(1, tokens // 256), 256, cores) for tokens in (256, 512, 1024, 2048, 4096, 8192)]
    points += [("seq", max(1, 4096 // seq), seq, cores) for seq in (128, 256, 512, 1024, 2048, 4096)]
    model = Path(bench.args.gguf).stem
    with open(bench.args.charts, "w") as lines:
        for sweep, batch, seq, threads in points:
            size = ["--batch", batch, "--seq", seq, "--threads", threads]
            for work in ("train", "forward"):
                runs = {"rag-tune": bench.ours(work, "--base", bench.args.gguf, *size, steps=3)}
                # More takes PyTorch minutes.
                if batch * seq <= 2048 and sweep != "seq":
                    runs["PyTorch"] = bench.theirs(work, bench.args.folder, *size, steps=2)
                for program, figures in runs.items():
                    kept = {name: value for name, value in figures.items() if "samples" not in name}
                    line = {"sweep": sweep, "program": program} | kept | {"model": model}
                    lines.write(json.dumps(line) + "\n")
                    lines.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="rag-tune beside PyTorch and llama.cpp, as a table")
    for name in ("rag-tune", "gguf", "folder", "q8", "encoder", "scratch"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--with-f32", action="store_true")
    parser.add_argument("--charts")
    args = parser.parse_args()
    bench = Bench(args)
    sweeps(bench) if args.charts else table(bench)


if __name__ == "__main__":
    main()

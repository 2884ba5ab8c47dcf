"""The work of `rag-tune bench`, done by PyTorch with PEFT, sentence-transformers and llama.cpp.

usage: bench_peer.py train|forward|generate|embed|llama-cpp MODEL [--batch N] [--seq N] [--new N] [--steps N] ...

Prints one line of JSON with the figures' names of `rag-tune bench --json`. One process is one measurement, so that peak
memory is its own. MODEL: for PyTorch a folder (scripts/dequantize_gguf.py), for embed an encoder's folder, for llama-cpp a
.gguf file (scripts/gguf_convert.py). Needs scripts/python-env.sh; llama-cpp needs llama-cpp-python.
"""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def timed(work: Callable[[], None]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def samples(args: argparse.Namespace, work: Callable[[], float | list[float]]) -> list:
    """What `work` returns, `args.steps` times after `args.warmup` times that are not counted."""
    return [work() for _ in range(args.warmup + args.steps)][args.warmup :]


def steps(seconds: list[float], items: int, name: str) -> dict:
    """The figures of repeated steps over `items` things."""
    median = statistics.median(seconds)
    return {f"{name}_per_s": items / median, "step_s": median, "step_samples_s": seconds}


def generation(args: argparse.Namespace, seconds: list[list[float]]) -> dict:
    """The figures of pairs of prefill and decode times."""
    prefill, decode = ([pair[at] for pair in seconds] for at in (0, 1))
    total = [sum(pair) for pair in seconds]
    return steps(total, args.batch * args.new, "tokens") | {
        "prefill_tokens_per_s": args.batch * args.seq / statistics.median(prefill),
        "prefill_samples_s": prefill,
        "decode_tokens_per_s": args.batch * (args.new - 1) / statistics.median(decode),
        "decode_samples_s": decode,
    }


def torch_model(args: argparse.Namespace):
    """The model in `args.dtype`."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    return AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)


def with_lora(args: argparse.Namespace):
    """The model with a fresh LoRA."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    return get_peft_model(torch_model(args), settings)


def random_ids(args: argparse.Namespace, model):
    """`[batch, seq]` ids."""
    import torch

    return torch.randint(0, model.config.vocab_size, (args.batch, args.seq))


def train(args: argparse.Namespace) -> dict:
    """Full optimizer steps: forward, loss on every token, backward, AdamW."""
    import torch

    model = with_lora(args).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = random_ids(args, model)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return steps(samples(args, lambda: timed(step)), args.batch * args.seq, "tokens")


def forward(args: argparse.Namespace) -> dict:
    """The forward pass up to the loss."""
    import torch

    model = with_lora(args).eval()
    ids = random_ids(args, model)
    with torch.inference_mode():
        seconds = samples(args, lambda: timed(lambda: model(input_ids=ids, labels=ids)))
    return steps(seconds, args.batch * args.seq, "tokens")


def generate(args: argparse.Namespace) -> dict:
    """Greedy generate() of a fixed length; decoding is what it takes beyond one new token."""
    import torch

    model = torch_model(args).eval()
    ids = random_ids(args, model)

    def answer(new: int) -> float:
        options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        return timed(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **options))

    def step() -> list[float]:
        prefill = answer(1)
        return [prefill, answer(args.new) - prefill]

    with torch.inference_mode():
        return generation(args, samples(args, step))


def embed(args: argparse.Namespace) -> dict:
    """sentence-transformers on the lines of `args.sentences`."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(args.model, device="cpu")
    if args.dtype == "bf16":
        model = model.to(torch.bfloat16)
    sentences = Path(args.sentences).read_text().splitlines()
    # As tensors: numpy, which it would convert to, has no bf16.
    seconds = samples(
        args, lambda: timed(lambda: model.encode(sentences, batch_size=args.batch, convert_to_tensor=True))
    )
    tokens = sum(map(len, model.tokenizer(sentences)["input_ids"]))
    return steps(seconds, len(sentences), "sentences") | {"tokens": tokens}


def llama_cpp(args: argparse.Namespace) -> dict:
    """llama.cpp through its own C interface: prompts in one batch, then one token a sequence and pass."""
    import llama_cpp as lib
    import numpy

    silent = lib.llama_log_callback(lambda *_: None)  # in a variable: llama.cpp holds no reference
    lib.llama_log_set(silent, None)
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(args.model.encode(), lib.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load `{args.model}`")
    threads = args.threads or len(os.sched_getaffinity(0))
    params = lib.llama_context_default_params()
    params.n_ctx = args.batch * (args.seq + args.new)
    params.n_batch = args.batch * args.seq
    params.n_seq_max = args.batch
    params.n_threads = params.n_threads_batch = threads
    context = lib.llama_init_from_model(model, params)
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    batch = lib.llama_batch_init(params.n_batch, 0, 1)
    prompts = numpy.random.default_rng(0).integers(0, vocabulary, (args.batch, args.seq))

    def decode(rows: numpy.ndarray, position: int) -> numpy.ndarray:
        """Runs `[batch, tokens]` ids from a position on; the likeliest next token of each row."""
        batch.n_tokens = rows.size
        last = rows.shape[1] - 1
        for row, ids in enumerate(rows):
            for at, token in enumerate(ids):
                slot = row * len(ids) + at
                batch.token[slot], batch.pos[slot] = int(token), position + at
                batch.n_seq_id[slot], batch.seq_id[slot][0] = 1, row
                batch.logits[slot] = at == last
        if lib.llama_decode(context, batch):
            raise SystemExit("llama.cpp cannot run the batch")
        logits = [lib.llama_get_logits_ith(context, row * rows.shape[1] + last) for row in range(len(rows))]
        best = [numpy.ctypeslib.as_array(row, (vocabulary,)).argmax() for row in logits]
        return numpy.array(best)[:, None]

    def step() -> list[float]:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        start = time.perf_counter()
        tokens = decode(prompts, 0)
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for at in range(args.new - 1):
            tokens = decode(tokens, args.seq + at)
        return [prefill, time.perf_counter() - start]

    return generation(args, samples(args, step)) | {"version": lib.__version__, "threads": threads}


WORKS = {"train": train, "forward": forward, "generate": generate, "embed": embed, "llama-cpp": llama_cpp}


def main() -> None:
    parser = argparse.ArgumentParser(description="The works of `rag-tune bench` by other programs")
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--threads", type=int, help="default: one a core")
    parser.add_argument(
        "--sentences", help="embed: a file of sentences, one a line (rag-tune bench embed --save-sentences)"
    )
    args = parser.parse_args()
    if args.work == "embed" and not args.sentences:
        parser.error("embed needs --sentences")
    figures = {"work": args.work, "model": args.model, "batch": args.batch, "seq": args.seq}
    if args.work != "llama-cpp":
        import torch

        if args.threads:
            torch.set_num_threads(args.threads)
        figures |= {"compute": args.dtype, "threads": torch.get_num_threads(), "version": torch.__version__}
    figures |= WORKS[args.work](args)
    figures["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

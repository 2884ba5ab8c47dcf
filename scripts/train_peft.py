"""The reference run: PyTorch with PEFT trains on rag-tune's augmented rows and predicts the validation rows.

usage: train_peft.py BASE_DIR AUGMENTED_DIR OUT_DIR [--steps N] [--limit N]

AUGMENTED_DIR is what `rag-tune augment` wrote (train.jsonl, validation.jsonl), so that both sides see the same
prompts. The recipe is that of configs/sql_zero_shot_smollm2.toml: one epoch of 16 rows a step,
LoRA rank 16, alpha 16 on q, k, v, o, learning rate 1e-3, 5 % warmup, then cosine to zero; loss on the completion
(answer and EOS) only, bf16. OUT_DIR gets the adapter, metrics.jsonl and predictions.jsonl for
`rag-tune score --predictions`.

Needs scripts/python-env.sh.
"""

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

IGNORE_INDEX = -100


@dataclass
class EncodedRow:
    """A row as ids; the completion (which carries the loss) starts at `prompt_len`."""

    ids: list[int]
    prompt_len: int


def read_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def encode(tokenizer: PreTrainedTokenizerFast, row: dict) -> EncodedRow:
    """Prompt and answer tokenised as one text; a token that reaches beyond the prompt is completion."""
    prompt_end = len(row["inference_prompt"]) + 1  # the newline between prompt and answer
    encoded = tokenizer(row["full_prompt"], return_offsets_mapping=True)
    ids = encoded["input_ids"] + [tokenizer.eos_token_id]
    prompt_len = sum(end <= prompt_end for _, end in encoded["offset_mapping"])
    return EncodedRow(ids, prompt_len)


def pad(rows: list[EncodedRow], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded batch; padding and prompt carry no loss."""
    width = max(len(row.ids) for row in rows)
    batch = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        padding = width - len(row.ids)
        batch["input_ids"].append(row.ids + [pad_id] * padding)
        batch["attention_mask"].append([1] * len(row.ids) + [0] * padding)
        labels = [IGNORE_INDEX] * row.prompt_len + row.ids[row.prompt_len :]
        batch["labels"].append(labels + [IGNORE_INDEX] * padding)
    return {name: torch.tensor(values) for name, values in batch.items()}


def loss_sum(model: PeftModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed cross entropy of the supervised tokens."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    carries_loss = labels != IGNORE_INDEX
    return cross_entropy(logits[carries_loss].float(), labels[carries_loss], reduction="sum")


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warmup, then cosine to zero. `step` counts from 1."""
    if step <= warmup:
        return peak * step / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(model: PeftModel, rows: list[EncodedRow], pad_id: int, args: argparse.Namespace) -> None:
    """One epoch, or the first `args.steps` steps of it."""
    batches = [rows[i : i + args.batch_size] for i in range(0, len(rows), args.batch_size)]
    steps = len(batches)
    warmup = max(1, round(args.warmup * steps))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.0)
    model.train()
    with (args.out / "metrics.jsonl").open("w", encoding="utf-8") as metrics:
        for step, batch_rows in enumerate(batches[: args.steps], start=1):
            started = time.perf_counter()
            lr = learning_rate(step, steps, args.lr, warmup)
            for group in optimizer.param_groups:
                group["lr"] = lr
            supervised = sum(len(row.ids) - row.prompt_len for row in batch_rows)
            total = 0.0
            for i in range(0, len(batch_rows), args.micro_batch_size):
                micro = pad(batch_rows[i : i + args.micro_batch_size], pad_id)
                loss = loss_sum(model, micro) / supervised  # by token, so that accumulation equals the big batch
                loss.backward()
                total += loss.item()
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            record = {
                "step": step,
                "loss": total,
                "grad_norm": grad_norm,
                "lr": lr,
                "tokens": sum(len(row.ids) for row in batch_rows),
                "supervised_tokens": supervised,
                "seconds": round(time.perf_counter() - started, 3),
            }
            print(json.dumps(record), file=metrics, flush=True)
            print(f"step {step}/{steps}  loss {total:.4f}  lr {lr:.2e}  {record['seconds']:.1f} s", flush=True)


@torch.no_grad()
def predict(
    model: PeftModel, tokenizer: PreTrainedTokenizerFast, rows: list[dict], batch_size: int, max_new_tokens: int
) -> list[str]:
    """First line of the greedy answer to each row's `inference_prompt`, in the order of the rows."""
    model.eval()
    tokenizer.padding_side = "left"
    predictions = [""] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]["inference_prompt"]))
    for start in range(0, len(rows), batch_size):
        indices = by_length[start : start + batch_size]
        inputs = tokenizer([rows[i]["inference_prompt"] + "\n" for i in indices], padding=True, return_tensors="pt")
        output = model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, stop_strings=["\n"], tokenizer=tokenizer
        )
        answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, answer in zip(indices, answers):
            predictions[i] = answer.split("\n", 1)[0].strip()
        print(f"predicted {start + len(indices)} of {len(rows)}", flush=True)
    return predictions


def main() -> None:
    parser = argparse.ArgumentParser(description="PyTorch + PEFT on rag-tune's augmented rows")
    parser.add_argument("base", type=Path)
    parser.add_argument("augmented", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, help="stop after this many steps of the epoch")
    parser.add_argument("--limit", type=int, help="predict the first rows only")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=float, default=16)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=float, default=0.05, help="share of the steps")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=1024, help="longer rows are left out (tokens)")
    parser.add_argument("--max-new-tokens", type=int, default=100)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    rows = [encode(tokenizer, row) for row in read_rows(args.augmented / "train.jsonl")]
    rows = [row for row in rows if len(row.ids) <= args.max_length]
    random.Random(args.seed).shuffle(rows)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(args.base, dtype=dtype),
        LoraConfig(
            r=args.rank,
            lora_alpha=args.alpha,
            lora_dropout=args.dropout,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    train(model, rows, tokenizer.pad_token_id, args)
    model.save_pretrained(args.out)

    validation = read_rows(args.augmented / "validation.jsonl")[: args.limit]
    predictions = predict(model, tokenizer, validation, args.batch_size, args.max_new_tokens)
    lines = [json.dumps({"prediction": prediction}, ensure_ascii=False) for prediction in predictions]
    (args.out / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

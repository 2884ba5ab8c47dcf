"""Makes the golden numbers of tests/fixtures/golden/ with PyTorch, transformers and PEFT.

usage: golden_llama.py tiny OUT_DIR              the tiny random models, LoRA gradients included
       golden_llama.py smollm2 BASE_DIR OUT_DIR  logits of SmolLM2 (BASE_DIR: see dequantize_gguf.py)

tests/fixtures/golden/README.md says what each file holds. Needs scripts/python-env.sh.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from int8_rows import quantize_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

IGNORE_INDEX = -100
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SEQUENCE_LENGTHS = [7, 12]
PROMPT_LENGTHS = [4, 8]
TOP = 32
FIXED_IDS = [0, 1, 2, 28, 198, 253, 1000, 49151]
PROMPTS = {
    "chat": "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "sql": "### Input:\nHow many singers are older than 56?\n\n### Context:\n"
    "CREATE TABLE singer (name VARCHAR, age INTEGER)\n\n### Response:\n",
    "prose": "The quick brown fox jumps over the lazy dog, and then",
}


@dataclass(frozen=True)
class Tiny:
    """What the tiny models differ in."""

    name: str
    seed: int
    rope: dict
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_dora: bool = False
    max_position_embeddings: int = 64


TINY_MODELS = [
    Tiny("tiny_tied", 1, {"rope_type": "default", "rope_theta": 10_000.0}, tied=True),
    Tiny("tiny_untied", 2, {"rope_type": "default", "rope_theta": 1_000_000.0}),
    Tiny(
        "tiny_biases",
        3,
        {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
        attention_bias=True,
        mlp_bias=True,
        use_dora=True,
    ),
    # Heads of 8 have wavelengths of 6, 63, 628 and 6283 tokens: kept, in between, stretched, stretched.
    Tiny(
        "tiny_llama3",
        4,
        {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        attention_bias=True,
        max_position_embeddings=512,
    ),
]


def tiny_model(tiny: Tiny) -> LlamaForCausalLM:
    """A random Llama whose weights are exact in bf16, so that 16-bit storage changes nothing."""
    torch.manual_seed(tiny.seed)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=96,
        max_position_embeddings=tiny.max_position_embeddings,
        rms_norm_eps=1e-5,
        rope_parameters=dict(tiny.rope),
        tie_word_embeddings=tiny.tied,
        attention_bias=tiny.attention_bias,
        mlp_bias=tiny.mlp_bias,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Large enough that attention is far from uniform and the MLP far from linear.
            values = 1.0 + 0.2 * torch.randn(weight.shape) if "norm" in name else 0.25 * torch.randn(weight.shape)
            weight.copy_(values.to(torch.bfloat16))
    return model


def save_base(model: LlamaForCausalLM, rope_theta: float, folder: Path) -> None:
    """model.safetensors and config.json; `rope_theta` also where older transformers wrote it."""
    model.save_pretrained(folder)
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text())
    config["rope_theta"] = rope_theta
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """PEFT's own files; it writes `target_modules` in random order, so they are sorted."""
    adapted.save_pretrained(folder)
    config_path = folder / "adapter_config.json"
    config = json.loads(config_path.read_text())
    config["target_modules"].sort()
    config_path.write_text(json.dumps(config, indent=2) + "\n")
    (folder / "README.md").unlink(missing_ok=True)


def sequences(vocab_size: int) -> list[torch.Tensor]:
    """The ids of the two sequences; rag-tune sees them packed, PyTorch one after the other."""
    return [torch.randint(3, vocab_size, (length,)) for length in SEQUENCE_LENGTHS]


def labels(ids: torch.Tensor, prompt_length: int) -> torch.Tensor:
    """`labels[t]` is the id that position `t` must predict, or -100: only completion tokens are predicted."""
    following = torch.cat([ids[1:], torch.tensor([IGNORE_INDEX])])
    following[: prompt_length - 1] = IGNORE_INDEX
    return following


def all_logits(model: LlamaForCausalLM | PeftModel, ids: list[torch.Tensor]) -> list[torch.Tensor]:
    """`[tokens, vocab]` of each sequence, run by itself."""
    return [model(input_ids=sequence[None]).logits[0] for sequence in ids]


def mean_loss(logits: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
    """Mean over all supervised tokens of both sequences, not over sequences."""
    return cross_entropy(torch.cat(logits), torch.cat(targets), ignore_index=IGNORE_INDEX)


def with_adapter(model: LlamaForCausalLM, use_dora: bool) -> PeftModel:
    """A LoRA adapter with non-zero B: with B = 0 the gradients of A would all be zero."""
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
        use_dora=use_dora,
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape))
            elif "magnitude" in name:
                weight.mul_(1.0 + 0.1 * torch.randn(weight.shape))
    return adapted.eval()


def lora_gradients(adapted: PeftModel) -> dict[str, torch.Tensor]:
    """Gradients under the names of adapter_model.safetensors."""
    magnitude = "lora_magnitude_vector"
    return {
        name.replace(".default", "").replace(f"{magnitude}.weight", magnitude): weight.grad
        for name, weight in adapted.named_parameters()
        if weight.requires_grad
    }


def write_tiny(tiny: Tiny, out: Path) -> None:
    """One tiny model with all of its golden numbers, in a folder of its name."""
    folder = out / tiny.name
    model = tiny_model(tiny)
    save_base(model, tiny.rope["rope_theta"], folder)
    ids = sequences(model.config.vocab_size)
    targets = [labels(sequence, length) for sequence, length in zip(ids, PROMPT_LENGTHS)]
    golden = {"prompt_lengths": torch.tensor(PROMPT_LENGTHS)}
    with torch.no_grad():
        base_logits = all_logits(model, ids)
        quantized = tiny_model(tiny)
        quantize_model(quantized)
        quantized_logits = all_logits(quantized, ids)
    golden["loss"] = mean_loss(base_logits, targets)

    adapted = with_adapter(model, tiny.use_dora)
    save_adapter(adapted, folder / "adapter")
    adapted_logits = all_logits(adapted, ids)
    golden["lora_loss"] = mean_loss(adapted_logits, targets)
    golden["lora_loss"].backward()
    save_file(lora_gradients(adapted), folder / "gradients.safetensors")

    for i in range(len(ids)):
        golden |= {
            f"ids.{i}": ids[i],
            f"labels.{i}": targets[i],
            f"logits.{i}": base_logits[i],
            f"int8_logits.{i}": quantized_logits[i],
            f"lora_logits.{i}": adapted_logits[i].detach(),
        }
    save_file({key: value.detach().contiguous() for key, value in golden.items()}, folder / "golden.safetensors")
    print(f"{tiny.name}: loss {golden['loss']:.6f}, with the adapter {golden['lora_loss']:.6f}")


def position_record(logits: torch.Tensor) -> dict:
    """The `TOP` largest logits of one position, and those of a few fixed ids."""
    values, ids = logits.topk(TOP)
    return {
        "top_ids": ids.tolist(),
        "top_logits": [round(value, 5) for value in values.tolist()],
        "fixed_ids": FIXED_IDS,
        "fixed_logits": [round(value, 5) for value in logits[FIXED_IDS].tolist()],
    }


@torch.no_grad()
def write_smollm2(base: Path, out: Path) -> None:
    """smollm2.json: logits at the last two positions of each prompt, as loaded and in 8-bit form."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    records = [
        {"name": name, "text": text, "ids": tokenizer(text)["input_ids"]} for name, text in PROMPTS.items()
    ]
    for variant in ["f32", "int8"]:
        if variant == "int8":
            quantize_model(model)
        for record in records:
            logits = model(input_ids=torch.tensor([record["ids"]])).logits[0]
            record[variant] = [position_record(logits[-2]), position_record(logits[-1])]
            print(f"{record['name']} {variant}: {tokenizer.decode(logits[-1].argmax().item())!r}")
    out.mkdir(parents=True, exist_ok=True)
    text = "[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n"
    (out / "smollm2.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="golden numbers from PyTorch")
    commands = parser.add_subparsers(dest="command", required=True)
    tiny = commands.add_parser("tiny", help="the tiny random models")
    tiny.add_argument("out", type=Path)
    smollm2 = commands.add_parser("smollm2", help="SmolLM2-135M-Instruct")
    smollm2.add_argument("base", type=Path)
    smollm2.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.command == "tiny":
        for model in TINY_MODELS:
            write_tiny(model, args.out)
    else:
        write_smollm2(args.base, args.out)


if __name__ == "__main__":
    main()

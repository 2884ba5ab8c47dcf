"""Makes the golden numbers of LoRA's variants in tests/fixtures/golden/lora_variants/ with PyTorch and PEFT.

usage: golden_lora_variants.py GOLDEN_DIR

GOLDEN_DIR is tests/fixtures/golden: the tiny models, the ids and the labels there (golden_llama.py) are used.
For each variant one folder: the adapter as PEFT saves it, with random factors; `gradients.safetensors`, under the
names of the adapter's file; `golden.safetensors` with logits, loss, and loss and gradients under dropout (the masks are
those of rag-tune-kernels/src/dropout.rs, made again here); `merged.safetensors`, every eighth row of the adapted weights after
PEFT's `merge_and_unload`; `trained_plain` and `trained_loraplus.safetensors`, the
factors after some steps of AdamW, the latter with PEFT's `create_loraplus_optimizer`. Besides, `selections.json`: which
modules PEFT adapts for each of many configs, with rank and scaling, or null where it refuses. Needs scripts/python-env.sh.
"""

import argparse
import json
from pathlib import Path

import torch
from golden_llama import LORA_TARGETS, all_logits, mean_loss, save_adapter
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

BASE = "tiny_untied"
PATTERNS = {
    "rank_pattern": {"layers.0.self_attn.q_proj": 6, "down_proj": 2},
    "alpha_pattern": {r"model.layers.1.self_attn.[kv]_proj": 3, "q_proj": 5},
}
VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": PATTERNS,
    "dora": {"use_dora": True},
    "dora_rslora_patterns": {"use_dora": True, "use_rslora": True} | PATTERNS,
}
SELECTIONS = [
    {"target_modules": ["q_proj"]},
    {"target_modules": ["q_proj", "no_such_module"]},
    {"target_modules": ["no_such_module"]},
    {"target_modules": ["self_attn.v_proj", "0.mlp.up_proj", "model.layers.1.mlp.down_proj"]},
    {"target_modules": "all-linear"},
    {"target_modules": "ALL-linear", "exclude_modules": ["o_proj", "layers.0.mlp.up_proj"]},
    {"target_modules": r"model\.layers\.1\.self_attn\.[qk]_proj"},
    {"target_modules": "q_proj"},
    {"target_modules": r".*_proj", "exclude_modules": r".*mlp.*"},
    {"target_modules": r".*", "exclude_modules": r"(?:model|lm_head|.*(?:norm|tokens|emb|act_fn|attn|mlp|layers|layers\.\d))"},
    {"target_modules": ["q_proj", "gate_proj"], "layers_to_transform": [1]},
    {"target_modules": ["q_proj", "gate_proj"], "layers_to_transform": 0},
    {"target_modules": ["q_proj", "gate_proj"], "layers_to_transform": []},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "h"},
    {"target_modules": "all-linear", "layers_to_transform": [1]},
    {"target_modules": ["q_proj", "k_proj"], "r": 5, "lora_alpha": 7, "use_rslora": True, "rank_pattern": {"k_proj": 9}},
    {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"q_proj": 2, "layers.0.self_attn.q_proj": 3}},
    {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"layers.0.self_attn.q_proj": 3, "q_proj": 2}},
    {"target_modules": ["q_proj", "k_proj"], "alpha_pattern": {"self_attn.*": 2, "^model.layers.1.self_attn.q_proj": 3}},
    {"target_modules": ["q_proj"], "alpha_pattern": {"proj": 2, "._proj": 3, "layers.1": 4}},
]
STEPS = 4
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.1
LORAPLUS_RATIO = 8.0
DROPOUT = {"probability": 0.3, "seed": 5, "step": 3, "micro_batch": 1}
MASK_64, MASK_32 = (1 << 64) - 1, (1 << 32) - 1
GOLDEN_RATIO = 0x9E37_79B9_7F4A_7C15
ELEMENTS_PER_TASK = 1 << 15
# The activations of a block that have a mask each, by the layers that read them.
SITES = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


def mix_64(value: int) -> int:
    """The finaliser of splitmix64."""
    value = (value + GOLDEN_RATIO) & MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9) & MASK_64
    value = ((value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB) & MASK_64
    return value ^ (value >> 31)


def hash_32(element: int, key: int) -> int:
    """The hash of one element of a piece."""
    value = element ^ (key & MASK_32)
    for last in (False, True):
        value = ((value ^ (value >> 16)) * 0x7FEB_352D) & MASK_32
        value = ((value ^ (value >> 15)) * 0x846C_A68B) & MASK_32
        value ^= value >> 16
        if not last:
            value = (value + (key >> 32)) & MASK_32
    return value


def dropout_mask(rows: int, cols: int, layer: int, site: int) -> torch.Tensor:
    """0 where a value falls out, else 1 / (1 - probability): `[rows, cols]`."""
    key = mix_64(DROPOUT["seed"])
    for part in (DROPOUT["step"], DROPOUT["micro_batch"], layer, site):
        key = mix_64(key ^ mix_64(part + 1))
    assert rows * cols <= ELEMENTS_PER_TASK, "a second piece has another key"
    threshold = int(DROPOUT["probability"] * MASK_32)
    kept = [hash_32(element, key) >= threshold for element in range(rows * cols)]
    return torch.tensor(kept).reshape(rows, cols) / (1.0 - torch.tensor(DROPOUT["probability"]))


class FixedDropout(torch.nn.Module):
    """Drops what rag-tune drops: the sequences are rows `first..` of one packed activation."""

    def __init__(self, layer: int, site: int, tokens: int):
        super().__init__()
        self.layer, self.site, self.tokens, self.first = layer, site, tokens, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = dropout_mask(self.tokens, x.shape[-1], self.layer, self.site)
        rows = mask[self.first : self.first + x.shape[1]]
        self.first = (self.first + x.shape[1]) % self.tokens
        return x * rows


def put_dropout(adapted: PeftModel, tokens: int) -> None:
    """Replaces PEFT's dropout by ours, in training mode."""
    adapted.train()
    for name, module in adapted.named_modules():
        if hasattr(module, "lora_dropout"):
            layer = int(name.split("layers.")[1].split(".")[0])
            site = next(at for at, names in enumerate(SITES) if name.split(".")[-1] in names)
            module.lora_dropout["default"] = FixedDropout(layer, site, tokens)


def factors(adapted: PeftModel) -> list[tuple[str, torch.nn.Parameter]]:
    """The trained tensors under the names of PEFT's file."""
    named = [(name, weight) for name, weight in adapted.named_parameters() if weight.requires_grad]
    magnitude = "lora_magnitude_vector"
    return [
        (name.replace(".default", "").replace(f"{magnitude}.weight", magnitude), weight) for name, weight in named
    ]


def new_adapter(base: Path, settings: dict, seed: int) -> PeftModel:
    """An adapter with random factors; magnitudes are a little off the base's."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=LORA_TARGETS, task_type="CAUSAL_LM", **settings
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in factors(adapted):
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape))
            elif "magnitude" in name:
                weight.mul_(1.0 + 0.2 * torch.randn(weight.shape))
    return adapted.eval()


def loss_of(adapted: PeftModel, ids: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
    return mean_loss(all_logits(adapted, ids), targets)


def gradients(adapted: PeftModel) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in factors(adapted)}


def plain_optimizer(adapted: PeftModel) -> torch.optim.Optimizer:
    """AdamW that decays A and B, and never a magnitude."""
    decayed = [weight for name, weight in factors(adapted) if "magnitude" not in name]
    others = [weight for name, weight in factors(adapted) if "magnitude" in name]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE)


def loraplus_optimizer(adapted: PeftModel) -> torch.optim.Optimizer:
    """PEFT's own groups; with DoRA no decay: PEFT would decay magnitudes, which rag-tune does not."""
    has_magnitudes = any("magnitude" in name for name, _ in factors(adapted))
    return create_loraplus_optimizer(
        adapted,
        torch.optim.AdamW,
        lr=LEARNING_RATE,
        loraplus_lr_ratio=LORAPLUS_RATIO,
        loraplus_weight_decay=0.0 if has_magnitudes else WEIGHT_DECAY,
    )


def trained(adapted: PeftModel, make_optimizer, ids, targets) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The factors after `STEPS` steps, as PEFT would save them, and the losses before each."""
    optimizer = make_optimizer(adapted)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(adapted, ids, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    state = get_peft_model_state_dict(adapted)
    return {name: value.detach().clone().contiguous() for name, value in state.items()}, torch.stack(losses)


def write_variant(name: str, settings: dict, golden_dir: Path, seed: int) -> None:
    """All files of one variant."""
    base = golden_dir / BASE
    inputs = load_file(base / "golden.safetensors")
    ids = [inputs[f"ids.{i}"] for i in range(2)]
    targets = [inputs[f"labels.{i}"] for i in range(2)]
    folder = golden_dir / "lora_variants" / name
    folder.mkdir(parents=True, exist_ok=True)

    adapted = new_adapter(base, settings, seed)
    save_adapter(adapted, folder / "adapter")
    config_path = folder / "adapter" / "adapter_config.json"
    config = json.loads(config_path.read_text()) | {"base_model_name_or_path": BASE}
    config_path.write_text(json.dumps(config, indent=2) + "\n")

    logits = all_logits(adapted, ids)
    loss = mean_loss(logits, targets)
    loss.backward()
    golden = {"loss": loss} | {f"logits.{i}": part for i, part in enumerate(logits)}
    save_file(gradients(adapted), folder / "gradients.safetensors")

    adapted.zero_grad()
    put_dropout(adapted, sum(len(sequence) for sequence in ids))
    golden["dropout_loss"] = loss_of(adapted, ids, targets)
    golden["dropout_loss"].backward()
    save_file(gradients(adapted), folder / "dropout_gradients.safetensors")

    merged = new_adapter(base, settings, seed).merge_and_unload().state_dict()
    rows = {name: weight[::8].clone() for name, weight in merged.items() if "_proj" in name}
    save_file(rows, folder / "merged.safetensors")

    for label, make_optimizer in [("plain", plain_optimizer), ("loraplus", loraplus_optimizer)]:
        state, losses = trained(new_adapter(base, settings, seed), make_optimizer, ids, targets)
        save_file(state, folder / f"trained_{label}.safetensors")
        golden[f"losses_{label}"] = losses[None]
    save_file({key: value.detach().contiguous() for key, value in golden.items()}, folder / "golden.safetensors")
    print(f"{name}: loss {loss:.6f}, with dropout {golden['dropout_loss']:.6f}, trained {losses[-1]:.6f}")


def selection(base: Path, settings: dict) -> dict:
    """The config as it would stand in adapter_config.json, and what PEFT makes of it."""
    model = LlamaForCausalLM.from_pretrained(base)
    record = {"config": {"peft_type": "LORA"} | settings, "adapted": None}
    try:
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    except ValueError as error:
        print(f"refused: {settings}: {error}")
        return record
    layers = {
        name.removeprefix("base_model.model."): [module.r["default"], round(module.scaling["default"], 6)]
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_A") and "default" in module.lora_A
    }
    return record | {"adapted": layers}


def write_selections(golden_dir: Path) -> None:
    records = [selection(golden_dir / BASE, settings) for settings in SELECTIONS]
    text = "[\n" + ",\n".join(json.dumps(record) for record in records) + "\n]\n"
    (golden_dir / "lora_variants" / "selections.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="golden numbers of LoRA's variants from PEFT")
    parser.add_argument("golden", type=Path, help="tests/fixtures/golden")
    args = parser.parse_args()
    for seed, (name, settings) in enumerate(VARIANTS.items()):
        write_variant(name, settings, args.golden, seed)
    write_selections(args.golden)


if __name__ == "__main__":
    main()

"""Compares `rag-tune export --check` with the programs that it speaks for, on good and bad adapters.

Some thirty adapters are made with PEFT on tests/fixtures/golden/tiny_tied: plain ones, and ones with another setting, or
with a tensor or key taken out, added or changed. For each: what rag-tune says, and what happens in

- PEFT: PeftModel.from_pretrained; the loaded tensors and scalings are compared with those that were saved;
- vLLM: its own PEFTHelper and LoRAModel.from_local_checkpoint, out of the wheel (the rest of vLLM is stubbed, no
  CUDA needed), then the updates that they give, scaled as its layers do it;
- llama.cpp: convert_lora_to_gguf.py, then what llama.cpp's loader asks of the file that it writes, and the updates in
  it, scaled as llama.cpp does it.

An update that differs from the one that was trained is "loads wrongly". Exits with 1 if rag-tune says anything else.

needs   Python 3.11 with torch, transformers, peft 0.21, safetensors, regex;
        the vLLM wheel, unpacked: pip download --no-deps vllm==0.33.0 && unzip vllm-*.whl -d VLLM;
        llama.cpp's source: pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
run     python scripts/check_vllm_rules.py RAG_TUNE VLLM LLAMA_CPP
"""

import contextlib
import io
import json
import logging
import runpy
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "tests/fixtures/golden/tiny_tied"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PREFIX = "base_model.model."


class Anything:
    """Stands for every class of vLLM that adapters' rules do not need."""

    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


class Stub(types.ModuleType):
    """A module that has whatever is asked of it."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Anything,), {})


def import_vllm(folder):
    """vLLM's adapter files as they are, everything around them stubbed."""
    package = types.ModuleType("vllm")
    package.__path__ = [str(folder / "vllm")]
    sys.modules["vllm"] = package
    stubs = ["envs", "config", "config.lora", "logger", "lora.layers", "model_executor", "model_executor.custom_op",
             "model_executor.layers", "model_executor.layers.fused_moe", "model_executor.layers.linear",
             "model_executor.layers.vocab_parallel_embedding", "model_executor.utils", "model_executor.models",
             "model_executor.models.utils", "transformers_utils", "transformers_utils.repo_utils", "utils",
             "utils.torch_utils"]
    for name in stubs:
        sys.modules[f"vllm.{name}"] = Stub(f"vllm.{name}")
    sys.modules["vllm.logger"].init_logger = lambda name: Anything()
    sys.modules["vllm.utils.torch_utils"].PIN_MEMORY = False
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    return LoRAModel, PEFTHelper


class Intended:
    """What an adapter was trained to compute: A, B and scaling by module."""

    weights = {name: tuple(value.shape) for name, value in load_file(MODEL / "model.safetensors").items()}

    def __init__(self, model):
        self.factors, self.state = {}, get_peft_model_state_dict(model, save_embedding_layers=False)
        for name, module in model.named_modules():
            for kind, pick in (("lora_A", lambda layer: layer.weight), ("lora_embedding_A", lambda layer: layer)):
                layers = getattr(module, kind, {})
                if "default" in layers:
                    other = getattr(module, kind.replace("A", "B"))
                    a, b = pick(layers["default"]).detach(), pick(other["default"]).detach()
                    self.factors[name.removeprefix(PREFIX)] = (a, b, module.scaling["default"])

    def agrees(self, found):
        """Whether `found`, updates by module, are these."""
        if found.keys() != self.factors.keys():
            return False
        for name, (a, b, scaling) in self.factors.items():
            expected = scaling * (b @ a)
            if found[name].shape != expected.shape:
                return False
            if (found[name].float() - expected).abs().max() > 0.01 * expected.abs().max():
                return False
        return True


def in_peft(folder, intended):
    base = LlamaForCausalLM.from_pretrained(MODEL)
    model = PeftModel.from_pretrained(base, folder)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    # A tensor that is in the file, and not in the model, was left out.
    saved = load_file(folder / "adapter_model.safetensors").keys()
    same = state.keys() == intended.state.keys() | saved and all(
        torch.allclose(state[name].float(), value.float(), rtol=0.01, atol=1e-3) for name, value in intended.state.items()
    )
    loaded = Intended(model)
    scalings = {name: scaling for name, (_, _, scaling) in intended.factors.items()}
    return same and scalings == {name: scaling for name, (_, _, scaling) in loaded.factors.items()}


def in_vllm(folder, intended, vllm, max_rank):
    lora_model, helper_class = vllm
    helper = helper_class.from_local_dir(str(folder), 64)
    helper.validate_legal(types.SimpleNamespace(max_lora_rank=max_rank))
    expected = set(ALL) | {"embed_tokens", "lm_head"}
    model = lora_model.from_local_checkpoint(
        str(folder), expected, helper, lora_model_id=1, device="cpu", dtype=torch.float32
    )
    updates = {}
    for name, lora in model.loras.items():
        lora.optimize()
        # BaseLinearLayerWithLoRA.set_lora copies into buffers of this rank.
        a, b = torch.zeros(max_rank, lora.lora_a.shape[1]), torch.zeros(lora.lora_b.shape[0], max_rank)
        a[: lora.lora_a.shape[0]].copy_(lora.lora_a)
        b[:, : lora.lora_b.shape[1]].copy_(lora.lora_b)
        updates[name] = b @ a
    return intended.agrees(updates)


def in_llama_cpp(folder, intended, converter):
    file = folder / "adapter.gguf"
    arguments, sys.argv = sys.argv, [str(converter), "--base", str(MODEL), "--outfile", str(file), str(folder)]
    try:
        runpy.run_path(str(converter), run_name="__main__")
    finally:
        sys.argv = arguments
    from gguf import GGUFReader

    reader = GGUFReader(file)
    alpha = reader.fields["adapter.lora.alpha"].contents()
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj"}
    tensors = {tensor.name: torch.tensor(tensor.data.copy()).float() for tensor in reader.tensors}
    updates = {}
    for name in tensors:
        if name.endswith(".weight.lora_a"):
            continue
        if not name.endswith(".weight.lora_b"):
            return False  # llama_adapter_lora_init_impl leaves it unused
        a, b = tensors[name.replace("lora_b", "lora_a")], tensors[name]
        module = name.removesuffix(".weight.lora_b")
        if module == "token_embd":
            updates["model.embed_tokens"] = (alpha / b.shape[1] if alpha else 1) * (b @ a.T)
            continue
        _, layer, part = module.split(".")
        if part in ("attn_q", "attn_k"):
            # Back to the halves of each head, which is 8 wide.
            b = b.reshape(-1, 4, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
        # What llama_adapter_lora_init_impl asks of the base model's weight.
        weight = intended.weights[f"model.layers.{layer}.{names[part]}.weight"]
        assert (b.shape[0], a.shape[1]) == weight, "has incorrect shape"
        update = (alpha / b.shape[1] if alpha else 1) * (b @ a)
        updates[f"model.layers.{layer}.{names[part]}"] = update
    return intended.agrees(updates)


def verdict(load):
    noise = io.StringIO()
    try:
        with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            same = load()
    except (Exception, SystemExit):
        return "refuses"
    return "loads" if same else "loads wrongly"


def said(program, folder, max_rank):
    command = [program, "export", "--adapter", folder, "--check", "--json", "--base", MODEL, "--max-lora-rank", str(max_rank)]
    output = subprocess.run(command, capture_output=True, text=True).stdout
    return {report["program"]: report["verdict"] for report in json.loads(output)}


def key(name, value=...):
    """A change of adapter_config.json: a value for a key, or the key taken out."""

    def change(config, tensors):
        config.pop(name) if value is ... else config.update({name: value})

    return change


def first(tensors, end):
    return next(name for name in sorted(tensors) if name.endswith(end))


def without(*ends):
    def change(config, tensors):
        for name in [first(tensors, end) for end in ends]:
            del tensors[name]

    return change


def with_tensor(name, *shape):
    return lambda config, tensors: tensors.update({name: torch.ones(*shape)})


def cut(end, rows=slice(None), columns=slice(None)):
    def change(config, tensors):
        name = first(tensors, end)
        tensors[name] = tensors[name][rows, columns].contiguous()

    return change


def as_type(dtype):
    return lambda config, tensors: tensors.update({name: value.to(dtype) for name, value in tensors.items()})


# Name, settings of LoraConfig beyond a plain one, a change of the saved files, max_lora_rank.
CASES = [
    ("plain", {}, None, 16),
    ("all linear layers", {"target_modules": ALL}, None, 16),
    ("'all-linear'", {"target_modules": "all-linear"}, None, 16),
    ("a regular expression", {"target_modules": r".*\.[qv]_proj"}, None, 16),
    ("one layer", {"layers_to_transform": [1]}, None, 16),
    ("ranks differ inside q, k, v", {"rank_pattern": {"k_proj": 2, "layers.1.self_attn.v_proj": 8}}, None, 16),
    ("alphas differ", {"alpha_pattern": {"q_proj": 32}}, None, 16),
    ("a rank pattern above the limit", {"rank_pattern": {"k_proj": 32}}, None, 16),
    ("rsLoRA", {"use_rslora": True}, None, 16),
    ("DoRA", {"use_dora": True}, None, 16),
    ("rank 32 of 16", {"r": 32}, None, 16),
    ("rank 32 of 64", {"r": 32}, None, 64),
    ("an output layer saved whole", {"modules_to_save": ["lm_head"]}, None, 16),
    ("biases", {"bias": "all"}, None, 16),
    ("a bias on B", {"lora_bias": True}, None, 16),
    ("lm_head adapted", {"target_modules": ["q_proj", "lm_head"]}, None, 16),
    ("embeddings adapted", {"target_modules": ["q_proj", "embed_tokens"]}, None, 16),
    ("f16", {}, as_type(torch.float16), 16),
    ("bf16", {}, as_type(torch.bfloat16), 16),
    ("f64", {}, as_type(torch.float64), 16),
    ("8-bit integers", {}, as_type(torch.int8), 16),
    ("alpha 0", {"lora_alpha": 0}, None, 16),
    ("no `r`", {"r": 8}, key("r"), 16),
    ("`r` 0", {}, key("r", 0), 16),
    ("no `lora_alpha`", {}, key("lora_alpha"), 16),
    ("no `target_modules`", {}, key("target_modules"), 16),
    ("no `peft_type`", {}, key("peft_type"), 16),
    ("an unknown key", {}, key("rag_tune", {"version": 1}), 16),
    ("another rank in the config", {}, key("r", 2), 16),
    ("fewer targets than tensors", {}, key("target_modules", ["q_proj"]), 16),
    ("targets that the base lacks", {}, key("target_modules", ["c_attn"]), 16),
    ("started with PiSSA", {}, key("init_lora_weights", "pissa"), 16),
    ("started with numbers of a normal distribution", {}, key("init_lora_weights", "gaussian"), 16),
    ("a factor is missing", {}, without("q_proj.lora_B.weight"), 16),
    ("a layer is missing", {}, without("q_proj.lora_A.weight", "q_proj.lora_B.weight"), 16),
    ("a tensor too many", {}, with_tensor(f"{PREFIX}model.layers.0.mlp.up_proj.weight", 48, 32), 16),
    ("a norm too many", {}, with_tensor(f"{PREFIX}model.layers.0.input_layernorm.weight", 32), 16),
    ("an unknown module", {}, lambda config, tensors: (
        tensors.update({f"{PREFIX}model.layers.0.c_attn.lora_A.weight": torch.ones(4, 32)}),
        tensors.update({f"{PREFIX}model.layers.0.c_attn.lora_B.weight": torch.ones(32, 4)})), 16),
    ("rows of B are missing", {}, cut("q_proj.lora_B.weight", rows=slice(0, 8)), 16),
    ("columns of A are missing", {}, cut("q_proj.lora_A.weight", columns=slice(0, 8)), 16),
    ("factors of two ranks", {}, cut("q_proj.lora_A.weight", rows=slice(0, 2)), 16),
]


def write(folder, settings, change):
    torch.manual_seed(3)
    base = LlamaForCausalLM.from_pretrained(MODEL)
    plain = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(base, LoraConfig(**{**plain, **settings}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name or "lora_embedding_A" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder, save_embedding_layers=False)
    intended = Intended(model)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "tiny_tied"
    if change:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(config, tensors)
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return intended


def main():
    rag_tune, vllm_folder, llama_cpp = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    # The converter goes with the gguf package beside it.
    sys.path[1:1] = [str(llama_cpp / "gguf-py"), str(llama_cpp)]
    converter = llama_cpp / "convert_lora_to_gguf.py"
    vllm = import_vllm(vllm_folder)
    agreed = total = 0
    for name, settings, change, max_rank in CASES:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            intended = write(folder, settings, change)
            truth = {
                "peft": verdict(lambda: in_peft(folder, intended)),
                "vllm": verdict(lambda: in_vllm(folder, intended, vllm, max_rank)),
                "llama.cpp": verdict(lambda: in_llama_cpp(folder, intended, converter)),
            }
            ours = said(rag_tune, folder, max_rank)
        for program, happened in truth.items():
            total += 1
            agreed += ours[program] == happened
            mark = "" if ours[program] == happened else f"   <-- rag-tune says: {ours[program]}"
            print(f"{name:48} {program:10} {happened}{mark}")
    print(f"{agreed} of {total} verdicts agree, on {len(CASES)} adapters")
    sys.exit(agreed != total)


main()

"""rag-tune's 8-bit weights, in PyTorch: what the scripts that compare with rag-tune put on both sides."""

import torch
from torch import nn


def quantize_rows(weight: torch.Tensor) -> torch.Tensor:
    """Row-wise absmax, there and back, as bitsandbytes quantises: cast to f16, `codes = round(W * (127 / absmax))`, ties to even;
    `W' = codes * absmax / 127`.

    `weight` is `[out, in]`; each output row has its own absmax (LLM.int8, arXiv:2208.07339). PyTorch divides a number by a tensor as
    its reciprocal times the number.
    """
    weight = weight.to(torch.float16).to(torch.float32)
    absmax = weight.abs().amax(dim=1, keepdim=True)
    codes = torch.round(weight * (127.0 / absmax)).nan_to_num()
    return codes * (absmax / 127.0)


@torch.no_grad()
def quantize_model(model: nn.Module) -> None:
    """Puts a LlamaForCausalLM into rag-tune's 8-bit form, in place, still f32.

    Every linear layer of the blocks loses what int8 loses; embeddings and lm_head what bf16 loses.
    """
    for layer in model.model.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(quantize_rows(module.weight))
    for weight in {model.model.embed_tokens.weight, model.lm_head.weight}:
        weight.copy_(weight.to(torch.bfloat16))

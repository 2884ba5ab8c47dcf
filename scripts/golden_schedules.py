"""Golden learning rates and clip factors for crates/rag-tune-train/tests/schedules.rs.

Learning rates of transformers' schedules, factors of torch.nn.utils.clip_grad_norm_. Needs torch and transformers
(made with torch 2.15, transformers 5.23). Run: python scripts/golden_schedules.py > tests/fixtures/golden/schedules.json
"""

import json

import torch
import transformers


def rates(name, warmup, total, decay):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    if name == "constant":
        schedule = transformers.get_constant_schedule_with_warmup(optimizer, warmup)
    elif name == "linear":
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, total)
    elif name == "cosine":
        schedule = transformers.get_cosine_schedule_with_warmup(optimizer, warmup, total)
    else:
        schedule = transformers.get_wsd_schedule(
            optimizer, warmup, decay, num_training_steps=total, decay_type="linear"
        )
    values = []
    for _ in range(total):
        values.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return values


def clip(gradient, max_norm):
    parameter = torch.nn.Parameter(torch.zeros(len(gradient)))
    parameter.grad = torch.tensor(gradient)
    norm = torch.nn.utils.clip_grad_norm_([parameter], max_norm)
    return {"gradient": gradient, "max_norm": max_norm, "norm": float(norm), "clipped": parameter.grad.tolist()}


cases = []
for name in ["constant", "linear", "cosine", "wsd"]:
    for warmup, total, decay in [(0, 12, 4), (5, 31, 9), (3, 20, 17)]:
        values = rates(name, warmup, total, decay)
        cases.append({"schedule": name, "warmup": warmup, "total": total, "decay": decay, "rates": values})
clips = [clip(g, m) for g in ([3.0, -4.0], [0.1, 0.2, 0.2], [30.0, 0.5]) for m in (0.5, 1.0, 10.0)]
print(json.dumps({"schedules": cases, "clips": clips}))

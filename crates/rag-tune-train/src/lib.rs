//! LoRA fine-tuning: batches, loss, optimizer, schedule, checkpoints, the loop.

//! Llama-family models: checkpoint, 8-bit weights, forward, backward, generation.

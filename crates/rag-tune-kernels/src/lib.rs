//! Tensor, and one safe function per operation, each with a CPU kernel and a plain reference.

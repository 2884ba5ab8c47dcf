//! The `rag-tune` command line.
fn main() {}

//! `rag-tune bench`: how fast this machine does the program's work, and how fast it could.

use clap::{Args, Subcommand};
use rag_tune_kernels::Compute;
use rag_tune_kernels::peak::{instruction, memory_read_bytes_per_s, peak_op_per_s};

use crate::bench::{
    self, ChartsArgs, Column, EmbeddingArgs, Figures, GenerationArgs, LoadingArgs, TrainingArgs,
};
use crate::output::Output;

/// Time training, generation and embedding on made-up input
///
/// Shares are of this machine's own ceilings, measured in the same run: the multiply-and-add instructions of the
/// compute, and reading memory. Run it on an idle machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rag-tune bench train --base HuggingFaceTB/SmolLM2-135M-Instruct --batch 8 --seq 256
  rag-tune bench generate --synthetic codellama-7b --seq 512 --new 16 --steps 1
  rag-tune bench embed --json
  rag-tune bench ceilings")]
pub struct BenchArgs {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Full optimizer steps of a LoRA on q, k, v, o: forward, loss on every token, backward, AdamW
    Train(TrainingArgs),
    /// The forward pass up to the loss, as validation computes it
    Forward(TrainingArgs),
    /// Greedy generation: the prompts' prefill, and decoding
    Generate(GenerationArgs),
    /// One start of a model: reading and quantising its files, or mapping what an earlier start kept
    Load(LoadingArgs),
    /// Vectors of made-up sentences
    Embed(EmbeddingArgs),
    /// What no work can be faster than
    Ceilings(CeilingsArgs),
    /// Draw figures of many sizes
    Chart(ChartsArgs),
}

#[derive(Debug, Args)]
struct CeilingsArgs {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn bench(args: &BenchArgs, out: &mut Output) -> anyhow::Result<()> {
    match &args.work {
        Work::Train(args) => bench::train(args, out),
        Work::Forward(args) => bench::forward(args, out),
        Work::Generate(args) => bench::generate(args, out),
        Work::Load(args) => bench::load(args, out),
        Work::Embed(args) => bench::embed(args, out),
        Work::Ceilings(args) => ceilings(args, out),
        Work::Chart(args) => bench::charts(args, out),
    }
}

fn ceilings(args: &CeilingsArgs, out: &mut Output) -> anyhow::Result<()> {
    const COLUMNS: [Column; 5] = [
        Column::new("threads", "threads", 0),
        Column::new("f32 GFLOP/s", "f32_op_per_s", 0).times(1e-9),
        Column::new("bf16 GFLOP/s", "bf16_op_per_s", 0).times(1e-9),
        Column::new("int8 GOP/s", "int8_op_per_s", 0).times(1e-9),
        Column::new("memory read GB/s", "memory_read_bytes_per_s", 1).times(1e-9),
    ];
    let [f32, bf16, int8] = Compute::ALL;
    Figures::default()
        .say("threads", rayon::current_num_threads())
        .measured("f32_op_per_s", peak_op_per_s(f32))
        .measured("bf16_op_per_s", peak_op_per_s(bf16))
        .measured("int8_op_per_s", peak_op_per_s(int8))
        .measured("memory_read_bytes_per_s", memory_read_bytes_per_s())
        .say("instructions", Compute::ALL.map(instruction))
        .print(args.json, &COLUMNS, out)
}

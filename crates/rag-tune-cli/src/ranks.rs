//! The other processes of a run, where the launcher has started several.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::Context;
use rag_tune_kernels::cuda::DeviceError;
use rag_tune_model::config::ModelConfig;
use rag_tune_train::TrainError;
use rag_tune_train::ranks::{
    Alone, Collective, Launch, LocalRank, Patience, RankError, Rendezvous, Tcp,
};

use crate::error::{InputError, Interrupted};
use crate::output::Output;

/// How much longer than silence in a run ranks wait for each other at its start: a scheduler does not
/// start all at once.
const STARTS: u32 = 5;

/// Finds the other ranks, if the launcher's variables say that there are any. From then on only rank 0 talks.
///
/// # Errors
/// When the variables contradict each other, or the ranks do not find each other.
pub fn connect(
    silence: Duration,
    out: &mut Output,
) -> anyhow::Result<(Box<dyn Collective>, Launch)> {
    let launch = Launch::from_variables(&|name| std::env::var(name).ok())
        .map_err(TrainError::from)
        .context("cannot tell which rank this process is")?;
    let Some(rendezvous) = &launch.rendezvous else {
        return Ok((Box::new(Alone), launch));
    };
    share_processors(launch.ranks_here);
    let patience = Patience {
        silence,
        start: STARTS * silence,
    };
    let tcp = meet(&launch, rendezvous, patience, out).map_err(TrainError::from);
    let tcp = tcp.context("the ranks have not come together")?;
    Ok((Box::new(tcp), launch))
}

/// `[model]` as this process is to follow it: `auto` is a GPU of its own where several run.
///
/// # Errors
/// When the machine has fewer GPUs than ranks.
pub fn with_own_gpu(config: &ModelConfig, launch: &Launch) -> anyhow::Result<ModelConfig> {
    if launch.world.size == 1 {
        return Ok(config.clone());
    }
    let LocalRank { rank, at_least } = launch.local;
    let own = config.for_local_rank(rank, at_least);
    own.map_err(|error| match error {
        DeviceError::TooFew { gpus, .. } => {
            let hint = format!(
                "start {gpus} ranks on it (torchrun --nproc-per-node {gpus}, srun --ntasks-per-node={gpus}), \
                 or set `model.device` to \"cpu\" or to the GPU that they shall share"
            );
            InputError::new(error.to_string(), hint).into()
        }
        error => anyhow::Error::from(error),
    })
    .context("cannot give this rank a GPU")
}

fn meet(
    launch: &Launch,
    rendezvous: &Rendezvous,
    patience: Patience,
    out: &mut Output,
) -> Result<Tcp, RankError> {
    let (rank, size) = (launch.world.rank, launch.world.size);
    if launch.world.is_first() {
        out.note(&format!(
            "rank 0 of {size} waits for the others at {rendezvous}"
        ));
        return Tcp::connect(launch, rendezvous, patience);
    }
    let tcp = Tcp::connect(launch, rendezvous, patience)?;
    out.note(&format!(
        "rank {rank} of {size} has found rank 0 at {rendezvous}"
    ));
    out.hush();
    Ok(tcp)
}

/// Several ranks of a machine that each computed on all of its processors would only be in each other's
/// way. The number of threads changes no byte.
fn share_processors(ranks_here: usize) {
    if ranks_here == 1 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return;
    }
    let processors = available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = (processors / ranks_here).max(1);
    // It fails where there is a pool already; then that one serves.
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .ok();
}

/// Does something on rank 0 before the others: what it downloads or writes, they then find.
///
/// # Errors
/// What `work` reports, and when a rank is lost.
pub fn first_then_others<T>(
    ranks: &mut dyn Collective,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let is_first = ranks.world().is_first();
    if !is_first {
        ranks.broadcast(&mut Vec::new()).map_err(TrainError::from)?;
    }
    let done = work()?;
    if is_first {
        ranks.broadcast(&mut Vec::new()).map_err(TrainError::from)?;
    }
    Ok(done)
}

/// Tells the others of an error; they are waiting for this rank.
pub fn give_up(ranks: &mut dyn Collective, error: &anyhow::Error) {
    if !error.is::<Interrupted>() {
        let (rank, message) = (ranks.world().rank, format!("{error:#}"));
        ranks.give_up(&RankError::Failed { rank, message });
    }
}

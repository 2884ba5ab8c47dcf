//! What keeps several processes from training together.

use serde::{Deserialize, Serialize};

/// Why the ranks of a run did not find each other, or lost each other.
///
/// It travels: rank 0 passes on what it has noticed, so that every rank names the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RankError {
    /// A variable of the launcher does not say what it should.
    #[error("the environment variable `{name}` is `{value}`, which is not {expected}")]
    Variable {
        /// Its name.
        name: String,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: String,
    },
    /// A variable of the launcher is set, and one that belongs to it is not.
    #[error("the environment variable `{missing}` is not set, but `{set}` is")]
    MissingVariable {
        /// The one that is there.
        set: String,
        /// The one that is not.
        missing: String,
    },
    /// Rank 0 cannot be reached by the others.
    #[error("rank 0 cannot listen at {address}: {reason}")]
    Listen {
        /// Host and port.
        address: String,
        /// The system's own error.
        reason: String,
    },
    /// Rank 0 is not there.
    #[error("rank {rank} has found no rank 0 at {address} within {seconds} s: {reason}")]
    NoFirst {
        /// The rank that looked.
        rank: usize,
        /// Host and port.
        address: String,
        /// How long it has looked.
        seconds: u64,
        /// The last attempt's error.
        reason: String,
    },
    /// Some ranks have not come.
    #[error("{} not connected to rank 0 within {seconds} s", have(ranks))]
    Missing {
        /// Which.
        ranks: Vec<usize>,
        /// How long rank 0 has waited.
        seconds: u64,
    },
    /// A process may not take part.
    #[error("rank {rank} cannot take part: {reason}")]
    Refused {
        /// What it says it is.
        rank: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A rank has other settings, rows or weights than rank 0.
    #[error("rank {rank} trains another run than rank 0: {difference}")]
    OtherRun {
        /// Which.
        rank: usize,
        /// What differs.
        difference: String,
    },
    /// A rank runs on a CPU and rank 0 on a device, or the other way round.
    #[error("rank {rank} runs on {place}, and rank 0 on {first}")]
    OtherPlace {
        /// Which.
        rank: usize,
        /// Where it runs.
        place: String,
        /// Where rank 0 does.
        first: String,
    },
    /// A rank's adapter is not rank 0's, though both have had the same gradients.
    #[error("rank {rank} has another adapter than rank 0 after step {step}")]
    Drifted {
        /// Which.
        rank: usize,
        /// The step.
        step: usize,
    },
    /// A rank is gone without a word.
    #[error("rank {rank} is lost: {reason}")]
    Lost {
        /// Which.
        rank: usize,
        /// How that was noticed.
        reason: String,
    },
    /// A rank has ended with an error.
    #[error("rank {rank} has stopped: {message}")]
    Failed {
        /// Which.
        rank: usize,
        /// Its error.
        message: String,
    },
}

impl RankError {
    /// How to mend it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Variable { .. } | Self::MissingVariable { .. } => {
                "the launcher sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (torchrun), SLURM_* (srun) or OMPI_COMM_WORLD_* \
                 (mpirun, which must be given `-x MASTER_ADDR=HOST -x MASTER_PORT=PORT`); unset them all to train in one process"
            }
            Self::Listen { .. } => "choose another port with MASTER_PORT, the same for all ranks",
            Self::NoFirst { .. } | Self::Missing { .. } => {
                "start all ranks at about the same time, see what those that are missing have said, and see that MASTER_ADDR is \
                 a name of rank 0's machine whose port the others can reach; --rank-timeout sets how long they look for each other"
            }
            Self::Refused { .. } => {
                "start every rank with the same program and the same number of ranks"
            }
            Self::OtherRun { .. } => "start every rank with the same config, data and base model",
            Self::OtherPlace { .. } => {
                "give every rank a GPU, or start all with `model.device = \"cpu\"`"
            }
            Self::Drifted { .. } => {
                "processors of different kinds round differently: start the ranks on equal ones, then go on with --resume"
            }
            Self::Lost { .. } | Self::Failed { .. } => {
                "see what that rank has said last, then start all ranks again with --resume: any number of them goes on"
            }
        }
    }
}

fn have(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    match ranks {
        [_] => format!("rank {} has", numbers[0]),
        _ => format!("ranks {} have", numbers.join(", ")),
    }
}

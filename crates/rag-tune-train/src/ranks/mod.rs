//! Several processes that train one adapter: who they are, and how they reach one another.
//!
//! [`Launch`] reads from the launcher's variables which rank this process is and where rank 0 waits.
//! [`Collective`] is what training asks of the others. It is answered by [`Alone`], and by [`Tcp`] for
//! processes on CPUs. Every rank makes the same calls in the same order; a rank that a call does not
//! concern does nothing in it.
//!
//! All goes through rank 0, and it alone writes and decides. On CPUs it adds up the gradients in the order of the micro-batches, which
//! is what makes the bytes independent of the number of ranks. On devices each rank adds up its own, and one sum over the ranks
//! follows (`devices.rs`): by NCCL, which does not go through rank 0, where that is there.

pub(crate) mod devices;
mod error;
mod launch;
mod slurm;
mod tcp;

pub use self::error::RankError;
pub use self::launch::{Launch, LocalRank, Rendezvous};
pub use self::tcp::{Patience, Tcp};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A process among those of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
}

impl World {
    /// The only process of its run.
    pub const ALONE: Self = Self { rank: 0, size: 1 };

    /// Whether this is rank 0, which adds up, writes and decides.
    pub fn is_first(self) -> bool {
        self.rank == 0
    }
}

/// What the ranks of a run ask of one another.
///
/// # Errors
/// Every call: the [`RankError`] that ended the run first, wherever that was noticed.
pub trait Collective {
    /// Which rank this is.
    fn world(&self) -> World;

    /// Brings the bytes of rank `from` to rank 0. They change nowhere else.
    fn collect(&mut self, from: usize, bytes: &mut Vec<u8>) -> Result<(), RankError>;

    /// Brings the values of rank `from` to rank 0, which has as many. They change nowhere else.
    fn collect_values(&mut self, from: usize, values: &mut [f32]) -> Result<(), RankError>;

    /// Brings the bytes of rank 0 to every rank.
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), RankError>;

    /// Brings the values of rank 0 to every rank, each of which has as many.
    fn broadcast_values(&mut self, values: &mut [f32]) -> Result<(), RankError>;

    /// Tells the others that this rank goes no further, and why. Only the first call counts.
    fn give_up(&mut self, why: &RankError);

    /// What is known to have ended the run, without waiting for anybody.
    fn failure(&self) -> Option<RankError> {
        None
    }

    /// Replaces the values by their sums over all ranks, each of which has as many: added by rank 0 in the order of the
    /// ranks, so that all have the same bits.
    fn sum_values(&mut self, values: &mut [f32]) -> Result<(), RankError> {
        let World { rank, size } = self.world();
        if rank > 0 {
            self.collect_values(rank, values)?;
        } else {
            let mut others = vec![0.0; values.len()];
            for from in 1..size {
                self.collect_values(from, &mut others)?;
                for (sum, other) in values.iter_mut().zip(&others) {
                    *sum += other;
                }
            }
        }
        self.broadcast_values(values)
    }

    /// The bytes of every rank, in the order of the ranks, on rank 0; elsewhere nothing.
    fn gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>, RankError> {
        let World { rank, size } = self.world();
        let mut gathered = Vec::new();
        for from in 0..size {
            let mut bytes = own.to_vec();
            self.collect(from, &mut bytes)?;
            if rank == 0 {
                gathered.push(bytes);
            }
        }
        Ok(gathered)
    }

    /// Returns once every rank has called it.
    fn barrier(&mut self) -> Result<(), RankError> {
        self.gather(&[])?;
        self.broadcast(&mut Vec::new())
    }
}

/// One process: there is nobody to ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Collective for Alone {
    fn world(&self) -> World {
        World::ALONE
    }

    fn collect(&mut self, _: usize, _: &mut Vec<u8>) -> Result<(), RankError> {
        Ok(())
    }

    fn collect_values(&mut self, _: usize, _: &mut [f32]) -> Result<(), RankError> {
        Ok(())
    }

    fn broadcast(&mut self, _: &mut Vec<u8>) -> Result<(), RankError> {
        Ok(())
    }

    fn broadcast_values(&mut self, _: &mut [f32]) -> Result<(), RankError> {
        Ok(())
    }

    fn give_up(&mut self, _: &RankError) {}
}

/// Brings a small value of rank 0 to every rank, as JSON; elsewhere `value` is not looked at.
///
/// # Errors
/// As [`Collective`].
pub fn broadcast_json<T: Serialize + DeserializeOwned>(
    ranks: &mut dyn Collective,
    value: T,
) -> Result<T, RankError> {
    if ranks.world().size == 1 {
        return Ok(value);
    }
    let mut text = serde_json::to_vec(&value).map_err(|error| unreadable(ranks, &error))?;
    ranks.broadcast(&mut text)?;
    if ranks.world().is_first() {
        return Ok(value);
    }
    serde_json::from_slice(&text).map_err(|error| unreadable(ranks, &error))
}

fn unreadable(ranks: &dyn Collective, error: &serde_json::Error) -> RankError {
    let rank = ranks.world().rank;
    let message = format!("it cannot read what rank 0 has sent: {error}");
    RankError::Failed { rank, message }
}

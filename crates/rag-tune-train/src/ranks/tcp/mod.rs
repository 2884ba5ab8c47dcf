//! Ranks over TCP: a star around rank 0.
//!
//! A thread a connection reads, so that a lost rank is noticed while others compute, and another sends
//! a sign of life, so that a rank that computes for minutes is not taken for lost.

mod inbox;
mod rendezvous;
mod wire;

#[cfg(test)]
mod tests;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use self::inbox::{Inbox, lost};
use self::wire::Wire;
use super::{Collective, Launch, RankError, Rendezvous, World};

/// How long an end waits for the other side to have read everything.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long ranks wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Silence after which a rank counts as lost. Ranks that live are not silent, whatever they compute.
    pub silence: Duration,
    /// Until all have found each other.
    pub start: Duration,
}

/// The ranks of a run, connected over TCP.
///
/// Dropping it says good-bye to the others.
pub struct Tcp {
    world: World,
    inbox: Arc<Inbox>,
    threads: Vec<JoinHandle<()>>,
    has_given_up: bool,
}

impl Tcp {
    /// Finds the other ranks of a launch at `rendezvous`.
    ///
    /// # Errors
    /// When they do not all come in time, or one may not take part.
    pub fn connect(
        launch: &Launch,
        rendezvous: &Rendezvous,
        patience: Patience,
    ) -> Result<Self, RankError> {
        match launch.world.is_first() {
            true => Self::host(
                &rendezvous::listen(rendezvous)?,
                launch.world.size,
                patience,
            ),
            false => Self::join(launch.world, rendezvous, patience),
        }
    }

    /// Waits at `listener`, as rank 0, for the other `size - 1` ranks.
    ///
    /// # Errors
    /// When they do not all come in time, or one may not take part.
    pub fn host(
        listener: &TcpListener,
        size: usize,
        patience: Patience,
    ) -> Result<Self, RankError> {
        let mut this = Self::new(World { rank: 0, size }, patience);
        match rendezvous::welcome_all(&mut this, listener, patience) {
            Ok(()) => Ok(this),
            Err(error) => {
                this.give_up(&error);
                Err(error)
            }
        }
    }

    /// Connects to rank 0.
    ///
    /// # Errors
    /// When it is not there in time, or refuses this rank.
    pub fn join(
        world: World,
        rendezvous: &Rendezvous,
        patience: Patience,
    ) -> Result<Self, RankError> {
        let mut this = Self::new(world, patience);
        let stream = rendezvous::find_first(world, rendezvous, patience)?;
        this.add(0, stream, patience)?;
        Ok(this)
    }

    fn new(world: World, patience: Patience) -> Self {
        Self {
            world,
            inbox: Arc::new(Inbox::new(world, patience.silence)),
            threads: Vec::new(),
            has_given_up: false,
        }
    }

    /// Begins to read from a rank, and to tell it that this one lives.
    fn add(&mut self, rank: usize, stream: TcpStream, patience: Patience) -> Result<(), RankError> {
        let prepared = stream
            .set_read_timeout(Some(patience.silence))
            .and_then(|()| stream.set_nodelay(true));
        prepared.map_err(|error| lost(rank, error.to_string()))?;
        let wire = Arc::new(Wire::new(rank, stream));
        self.inbox.add(wire.clone());
        for work in [Inbox::read, Inbox::beat] {
            let (inbox, wire) = (self.inbox.clone(), wire.clone());
            self.threads
                .push(thread::spawn(move || work(&inbox, &wire)));
        }
        Ok(())
    }

    fn is_here(&self, rank: usize) -> bool {
        self.inbox.wire(rank).is_some()
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<(), RankError> {
        let Some(wire) = self.inbox.wire(to) else {
            return Err(lost(to, "it never came".to_owned()));
        };
        wire.data(bytes).map_err(|error| self.inbox.why(to, &error))
    }

    fn send_all(&self, bytes: &[u8]) -> Result<(), RankError> {
        (1..self.world.size).try_for_each(|to| self.send(to, bytes))
    }

    fn take_values(&self, from: usize, values: &mut [f32]) -> Result<(), RankError> {
        let bytes = self.inbox.take(from)?;
        if bytes.len() != size_of_val(values) {
            let (got, wanted) = (bytes.len(), size_of_val(values));
            return Err(lost(
                from,
                format!("it has sent {got} bytes instead of {wanted}"),
            ));
        }
        let (bytes, _) = bytes.as_chunks::<4>();
        for (value, bytes) in values.iter_mut().zip(bytes) {
            *value = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }
}

impl Collective for Tcp {
    fn world(&self) -> World {
        self.world
    }

    fn collect(&mut self, from: usize, bytes: &mut Vec<u8>) -> Result<(), RankError> {
        match self.world.rank {
            _ if from == 0 => Ok(()),
            0 => {
                *bytes = self.inbox.take(from)?;
                Ok(())
            }
            rank if rank == from => self.send(0, bytes),
            _ => Ok(()),
        }
    }

    fn collect_values(&mut self, from: usize, values: &mut [f32]) -> Result<(), RankError> {
        match self.world.rank {
            _ if from == 0 => Ok(()),
            0 => self.take_values(from, values),
            rank if rank == from => self.send(0, &as_bytes(values)),
            _ => Ok(()),
        }
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), RankError> {
        if self.world.is_first() {
            return self.send_all(bytes);
        }
        *bytes = self.inbox.take(0)?;
        Ok(())
    }

    fn broadcast_values(&mut self, values: &mut [f32]) -> Result<(), RankError> {
        match self.world.is_first() {
            true => self.send_all(&as_bytes(values)),
            false => self.take_values(0, values),
        }
    }

    fn failure(&self) -> Option<RankError> {
        self.inbox.failure_so_far()
    }

    fn give_up(&mut self, why: &RankError) {
        if self.has_given_up {
            return;
        }
        self.has_given_up = true;
        for wire in self.inbox.wires() {
            wire.failure(why).ok(); // whom it does not reach notices that this rank is gone
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.inbox.close();
        // The thread that has noticed a failure may not have passed it on yet, and behind a good-bye it would be too late. Who hears it
        // twice keeps the first.
        let to_pass_on = self.inbox.failure().filter(|_| self.world.is_first());
        for wire in self.inbox.wires() {
            // Where the other side no longer reads, the end must not wait for it.
            wire.stream().set_write_timeout(Some(LAST_WORDS)).ok();
            if let Some(failure) = &to_pass_on {
                wire.failure(failure).ok(); // it may be the one that is lost
            }
            wire.bye().ok();
            wire.end_writing();
        }
        // Closing at once could take back what was sent last and is not read yet.
        self.inbox.wait_for_ends(LAST_WORDS);
        for wire in self.inbox.wires() {
            wire.close();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok(); // a panic of it has been shown
        }
    }
}

fn as_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(values)];
    let (chunks, _) = bytes.as_chunks_mut::<4>();
    for (chunk, value) in chunks.iter_mut().zip(values) {
        *chunk = value.to_le_bytes();
    }
    bytes
}

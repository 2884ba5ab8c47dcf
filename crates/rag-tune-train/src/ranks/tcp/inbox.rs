//! What has come from the other ranks, and what has become of them: filled by a thread a connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::wire::{Frame, Wire};
use crate::ranks::{RankError, World};

/// Messages of one rank that wait; a rank that is faster is kept waiting, so that rank 0 holds no more
/// than two gradients of each.
const WAITING: usize = 4;

/// A write fails a moment before its reader has read why.
const FOR_THE_REASON: Duration = Duration::from_secs(1);

pub(super) struct Inbox {
    world: World,
    /// Silence after which a rank counts as lost.
    silence: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wires: BTreeMap<usize, Arc<Wire>>,
    messages: BTreeMap<usize, VecDeque<Vec<u8>>>,
    /// Ranks from which nothing more comes.
    ended: BTreeSet<usize>,
    /// What has ended the run first.
    failure: Option<RankError>,
    /// Nobody reads the messages any more.
    closing: bool,
}

impl Inbox {
    pub(super) fn new(world: World, silence: Duration) -> Self {
        Self {
            world,
            silence,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, wire: Arc<Wire>) {
        self.lock().wires.insert(wire.rank, wire);
    }

    pub(super) fn wire(&self, rank: usize) -> Option<Arc<Wire>> {
        self.lock().wires.get(&rank).cloned()
    }

    pub(super) fn wires(&self) -> Vec<Arc<Wire>> {
        self.lock().wires.values().cloned().collect()
    }

    pub(super) fn failure(&self) -> Option<RankError> {
        self.lock().failure.clone()
    }

    /// What has ended the run, or will, once somebody asks a rank that has gone.
    pub(super) fn failure_so_far(&self) -> Option<RankError> {
        let state = self.lock();
        let gone = state.ended.first().map(|rank| gone(*rank));
        state.failure.clone().or(gone)
    }

    /// Waits for the next message of `from`. What was sent before a failure is still given.
    pub(super) fn take(&self, from: usize) -> Result<Vec<u8>, RankError> {
        let mut state = self.lock();
        loop {
            if let Some(message) = state.messages.get_mut(&from).and_then(VecDeque::pop_front) {
                self.changed.notify_all();
                return Ok(message);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.ended.contains(&from) {
                return Err(gone(from));
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Why a write to `rank` has failed.
    pub(super) fn why(&self, rank: usize, error: &io::Error) -> RankError {
        let unknown = |state: &mut State| state.failure.is_none();
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), FOR_THE_REASON, unknown);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let failure = state.failure.clone();
        failure.unwrap_or_else(|| lost(rank, in_words(error, self.silence)))
    }

    /// Reads what a rank sends, until it ends. Run by a thread of its own.
    pub(super) fn read(&self, wire: &Wire) {
        loop {
            match wire.read() {
                Ok(Frame::Beat) => {}
                Ok(Frame::Data(message)) => self.put(wire.rank, message),
                Ok(Frame::Failure(error)) => self.fail(wire.rank, error),
                Ok(Frame::Bye) => break,
                Err(error) => {
                    self.fail(wire.rank, lost(wire.rank, in_words(&error, self.silence)));
                    break;
                }
            }
        }
        // A write that hangs because nobody reads any more ends here too.
        wire.close();
        self.lock().ended.insert(wire.rank);
        self.changed.notify_all();
    }

    fn put(&self, from: usize, message: Vec<u8>) {
        let is_full = |state: &mut State| {
            let waiting = state.messages.entry(from).or_default().len();
            waiting >= WAITING && !state.closing
        };
        let waited = self.changed.wait_while(self.lock(), is_full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.messages.entry(from).or_default().push_back(message);
        self.changed.notify_all();
    }

    /// Remembers why the run is over, if nothing was known yet. Rank 0 tells the others at once: they
    /// have no connection by which to notice.
    fn fail(&self, noticed_from: usize, error: RankError) {
        {
            let mut state = self.lock();
            if state.failure.is_some() || state.closing {
                return;
            }
            state.failure = Some(error.clone());
            self.changed.notify_all();
        }
        if self.world.is_first() {
            for wire in self.wires() {
                if wire.rank != noticed_from {
                    wire.failure(&error).ok(); // it may be lost too
                }
            }
        }
    }

    /// Tells a rank from time to time that this one lives, whatever it computes. Run by a thread of its own.
    pub(super) fn beat(&self, wire: &Wire) {
        loop {
            let is_on = |state: &mut State| !state.closing && !state.ended.contains(&wire.rank);
            let waited = self
                .changed
                .wait_timeout_while(self.lock(), self.silence / 5, is_on);
            let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            drop(state);
            if !waited.timed_out() || wire.beat().is_err() {
                return;
            }
        }
    }

    /// Nothing more will be taken.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    /// Waits until nothing more comes from any rank, but not for long.
    pub(super) fn wait_for_ends(&self, at_most: Duration) {
        let is_on = |state: &mut State| state.ended.len() < state.wires.len();
        let waited = self.changed.wait_timeout_while(self.lock(), at_most, is_on);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

pub(super) fn lost(rank: usize, reason: String) -> RankError {
    RankError::Lost { rank, reason }
}

/// It has said good-bye.
fn gone(rank: usize) -> RankError {
    lost(rank, "it has ended before the run".to_owned())
}

fn in_words(error: &io::Error, silence: Duration) -> String {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock,
    };
    match error.kind() {
        WouldBlock | TimedOut => format!("nothing was heard of it for {:?}", silence),
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => {
            "its connection was closed".to_owned()
        }
        _ => format!("its connection has failed: {error}"),
    }
}

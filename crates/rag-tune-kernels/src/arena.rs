//! Memory for activations that is used again from step to step.
//!
//! A training pass frees and takes large buffers of a few sizes over and over. Each that comes fresh from the system
//! costs page faults and clearing, so the arena keeps one range of addresses, of which free pieces join: what three
//! small buffers leave serves a large one. Pages that were once used stay, but hardly more than were in use at a time, so
//! that a process's memory can be foretold (`rag-tune plan`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};

/// Addresses set aside. Memory is taken page by page as buffers are written.
const RESERVED_BYTES: usize = 1 << 38;

/// Buffers begin and end at multiples of it: a multiple of every common page size.
const GRANULE_BYTES: usize = 1 << 16;

/// So much may always be kept: small models take buffers of many sizes by turns, few of which are in use at a time.
const ALWAYS_ALLOWED_BYTES: usize = 1 << 26;

/// One part in so many may be held beyond what was in use at a time, for gaps between buffers. Without it, SmolLM2's
/// prefills of 4,096 tokens took some 70,000 page faults each, with it 800.
const GAP_PART: usize = 8;

/// What all buffers share; `None` where the system sets no such range aside.
static ARENA: OnceLock<Option<Arena>> = OnceLock::new();

struct Arena {
    map: MmapRaw,
    pieces: Mutex<Pieces>,
}

impl Arena {
    fn shared() -> Option<&'static Self> {
        let arena = ARENA.get_or_init(|| {
            let mut options = MmapOptions::new();
            let map = options.len(RESERVED_BYTES).no_reserve_swap().map_anon();
            Some(Self {
                map: map.ok()?.into(),
                pieces: Mutex::new(Pieces::new(RESERVED_BYTES, ALWAYS_ALLOWED_BYTES)),
            })
        });
        arena.as_ref()
    }
}

/// A part of the arena, given back when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    start: NonNull<u8>,
    range: Range<usize>,
}

// SAFETY: a block is the only owner of its bytes.
unsafe impl Send for Block {}
// SAFETY: a shared block is only read.
unsafe impl Sync for Block {}

impl Block {
    /// At least `bytes`, of unspecified content. `None` where the arena has no room, or there is none.
    pub(crate) fn take(bytes: usize) -> Option<Self> {
        let arena = Arena::shared()?;
        let mut pieces = arena.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = pieces.take(bytes)?;
        for range in taken.given_up {
            // SAFETY: these bytes are free, so nothing refers to them. Where the system declines, they merely stay.
            let _ = unsafe {
                let advice = UncheckedAdvice::DontNeed;
                arena
                    .map
                    .unchecked_advise_range(advice, range.start, range.len())
            };
        }
        // SAFETY: the range is inside the map.
        let start = unsafe { arena.map.as_mut_ptr().add(taken.range.start) };
        Some(Self {
            start: NonNull::new(start)?,
            range: taken.range,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the block owns these bytes of the map, which lives as long as the process; fresh ones are zeros.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.range.len()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the block is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.range.len()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(arena) = Arena::shared() {
            let mut pieces = arena.pieces.lock().unwrap_or_else(PoisonError::into_inner);
            pieces.give_back(self.range.clone());
        }
    }
}

/// Which parts are free. In use and kept together never exceed [`Pieces::allowed_bytes`].
struct Pieces {
    /// Free pieces by where they begin. No two neighbours are in the same state.
    free: BTreeMap<usize, Piece>,
    kept_bytes: usize,
    in_use_bytes: usize,
    most_in_use_bytes: usize,
    always_allowed_bytes: usize,
}

#[derive(Clone, Copy)]
struct Piece {
    len: usize,
    /// Has been used, and its pages are still here.
    kept: bool,
}

/// A part that was free, and what must leave the process for it.
struct Taken {
    range: Range<usize>,
    given_up: Vec<Range<usize>>,
}

impl Pieces {
    fn new(len: usize, always_allowed_bytes: usize) -> Self {
        Self {
            free: BTreeMap::from([(0, Piece { len, kept: false })]),
            kept_bytes: 0,
            in_use_bytes: 0,
            most_in_use_bytes: 0,
            always_allowed_bytes,
        }
    }

    fn take(&mut self, bytes: usize) -> Option<Taken> {
        let len = bytes.max(1).checked_next_multiple_of(GRANULE_BYTES)?;
        let start = self.best_place(len)?;
        let range = start..start + len;
        let kept = self.cut_out(&range);
        self.kept_bytes -= kept;
        self.in_use_bytes += len;
        self.most_in_use_bytes = self.most_in_use_bytes.max(self.in_use_bytes);
        let given_up = self.give_up_excess();
        Some(Taken { range, given_up })
    }

    fn give_back(&mut self, range: Range<usize>) {
        self.in_use_bytes -= range.len();
        self.kept_bytes += range.len();
        self.insert(range, true);
    }

    /// Where `len` bytes fit with the fewest fresh pages; of equal ones in the smallest gap, at its start or end.
    fn best_place(&self, len: usize) -> Option<usize> {
        let mut best = None;
        let mut pieces = self.free.iter().peekable();
        while let Some((&start, piece)) = pieces.next() {
            let mut gap = start..start + piece.len;
            while let Some((_, next)) = pieces.next_if(|(start, _)| **start == gap.end) {
                gap.end += next.len;
            }
            if gap.len() < len {
                continue;
            }
            for place in [gap.start, gap.end - len] {
                let fresh = len - self.kept_within(&(place..place + len));
                let rank = (fresh, gap.len(), place);
                if best.is_none_or(|best| rank < best) {
                    best = Some(rank);
                }
            }
        }
        best.map(|(.., place)| place)
    }

    /// Free pieces that overlap `range`, whole.
    fn overlapping(&self, range: &Range<usize>) -> impl Iterator<Item = (Range<usize>, bool)> {
        let before = self.free.range(..=range.start).next_back();
        let first = before.map_or(range.start, |(start, _)| *start);
        let start = range.start;
        self.free
            .range(first..range.end)
            .map(|(start, piece)| (*start..start + piece.len, piece.kept))
            .filter(move |(piece, _)| piece.end > start)
    }

    fn kept_within(&self, range: &Range<usize>) -> usize {
        let kept = self.overlapping(range).filter(|(_, kept)| *kept);
        kept.map(|(piece, _)| piece.end.min(range.end) - piece.start.max(range.start))
            .sum()
    }

    /// Takes a free range out of the free pieces; returns how many of its bytes were kept.
    fn cut_out(&mut self, range: &Range<usize>) -> usize {
        let kept = self.kept_within(range);
        let pieces: Vec<_> = self.overlapping(range).collect();
        for (piece, kept) in pieces {
            self.free.remove(&piece.start);
            for rest in [piece.start..range.start, range.end..piece.end] {
                if !rest.is_empty() {
                    let len = rest.len();
                    self.free.insert(rest.start, Piece { len, kept });
                }
            }
        }
        kept
    }

    /// Adds a free piece, joined with neighbours in the same state.
    fn insert(&mut self, mut range: Range<usize>, kept: bool) {
        if let Some((&start, piece)) = self.free.range(..range.start).next_back()
            && start + piece.len == range.start
            && piece.kept == kept
        {
            range.start = start;
        }
        if let Some(piece) = self.free.get(&range.end)
            && piece.kept == kept
        {
            let end = range.end + piece.len;
            self.free.remove(&range.end);
            range.end = end;
        }
        let len = range.len();
        self.free.insert(range.start, Piece { len, kept });
    }

    /// The most that was in use at a time and room for gaps, or what is always allowed.
    fn allowed_bytes(&self) -> usize {
        let most = self.most_in_use_bytes;
        (most + most / GAP_PART).max(self.always_allowed_bytes)
    }

    /// Where more is held than is allowed, the last of the kept bytes go.
    fn give_up_excess(&mut self) -> Vec<Range<usize>> {
        let allowed = self.allowed_bytes();
        let mut given_up = Vec::new();
        while self.in_use_bytes + self.kept_bytes > allowed {
            let excess = self.in_use_bytes + self.kept_bytes - allowed;
            let last = self.free.iter().rev().find(|(_, piece)| piece.kept);
            let Some((&start, piece)) = last else { break };
            let end = start + piece.len;
            let excess = excess.next_multiple_of(GRANULE_BYTES).min(piece.len);
            let range = end - excess..end;
            self.cut_out(&range);
            self.kept_bytes -= range.len();
            self.insert(range.clone(), false);
            given_up.push(range);
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// What must hold at any time, for the ranges in use.
    fn check(pieces: &Pieces, in_use: &[Range<usize>], len: usize) {
        let free = pieces.free.iter();
        let mut all: Vec<_> = free
            .map(|(start, piece)| *start..start + piece.len)
            .collect();
        all.extend(in_use.iter().cloned());
        all.sort_by_key(|range| range.start);
        let ends = all
            .iter()
            .try_fold(0, |end, range| (range.start == end).then_some(range.end));
        assert_eq!(ends, Some(len), "every byte is free or in use, once");
        let kept = pieces.free.values().filter(|piece| piece.kept);
        assert_eq!(
            kept.map(|piece| piece.len).sum::<usize>(),
            pieces.kept_bytes
        );
        assert_eq!(
            in_use.iter().map(Range::len).sum::<usize>(),
            pieces.in_use_bytes
        );
        assert!(pieces.in_use_bytes + pieces.kept_bytes <= pieces.allowed_bytes());
    }

    #[test]
    fn bytes_are_free_or_in_use_and_no_more_are_kept_than_allowed() {
        for always_allowed in [0, 4 * MIB] {
            let len = 64 * MIB;
            let mut pieces = Pieces::new(len, always_allowed);
            let mut in_use: Vec<Range<usize>> = Vec::new();
            let mut seed = 7_u64;
            let mut next = |below: usize| {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) as usize % below
            };
            for _ in 0..4000 {
                if next(9) < 4 && !in_use.is_empty() {
                    pieces.give_back(in_use.swap_remove(next(in_use.len())));
                } else if let Some(taken) = pieces.take(1 + next(3 * MIB)) {
                    for given_up in taken.given_up {
                        assert_eq!(pieces.kept_within(&given_up), 0);
                    }
                    in_use.push(taken.range);
                }
                check(&pieces, &in_use, len);
            }
            in_use
                .drain(..)
                .for_each(|range| pieces.give_back(range.clone()));
            check(&pieces, &[], len);
        }
    }

    /// Other sizes in each round, as micro-batches have them: small ones and large ones share their pages.
    #[test]
    fn a_step_like_those_before_takes_no_fresh_page() {
        let mut pieces = Pieces::new(1 << 30, 0);
        let mut fresh_in_round = Vec::new();
        for round in 0..20 {
            let mut fresh = 0;
            let tokens = 2048 - 16 * (round * 7 % 20);
            let mut take = |pieces: &mut Pieces, width: usize| {
                let kept = pieces.kept_bytes;
                let range = pieces.take(4 * tokens * width).unwrap().range;
                fresh += range.len() - (kept - pieces.kept_bytes);
                range
            };
            for _layer in 0..4 {
                let [x, q, k] = [576, 576, 192].map(|width| take(&mut pieces, width));
                [q, k].into_iter().for_each(|range| pieces.give_back(range));
                let [gate, up] = [1536, 1536].map(|width| take(&mut pieces, width));
                [gate, up, x]
                    .into_iter()
                    .for_each(|range| pieces.give_back(range));
            }
            fresh_in_round.push(fresh);
        }
        assert!(fresh_in_round[0] > 0);
        assert_eq!(fresh_in_round[1..].iter().sum::<usize>(), 0);
    }

    #[test]
    fn without_room_there_is_no_block() {
        let mut pieces = Pieces::new(2 * GRANULE_BYTES, 0);
        assert!(pieces.take(usize::MAX).is_none());
        let both = [1, GRANULE_BYTES].map(|bytes| pieces.take(bytes).unwrap().range);
        assert!(pieces.take(1).is_none());
        both.into_iter().for_each(|range| pieces.give_back(range));
        assert_eq!(
            pieces.take(2 * GRANULE_BYTES).unwrap().range,
            0..2 * GRANULE_BYTES
        );
    }
}

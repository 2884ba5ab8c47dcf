//! New tokens behind what is in their caches: the forward pass over pages instead of packed rows.

use std::ops::Range;

use rayon::prelude::*;

use super::element::{BLOCK, Element};
use super::forward::{KeyBlock, Queries};
use super::from_panel;
use super::pages::Pages;
use crate::attention::Heads;
use crate::buffer::Buffer;
use crate::cpu::target::Target;
use crate::sequences::Sequences;
use crate::stored::Stored;

/// `q`: `[tokens, query heads * dim]`, of the last positions of each cache.
pub(crate) fn behind<E: Element>(
    q: &[E],
    sequences: &Sequences,
    caches: &[&Pages<E>],
    heads: Heads,
) -> Stored {
    let (tokens, width) = (sequences.tokens(), heads.query * heads.dim);
    let mut out = Buffer::<E>::stale(tokens * width);
    let target = Target::new(&mut out, width);
    let mut tasks = Vec::new();
    for (tokens, cache) in sequences.ranges().zip(caches) {
        for head in 0..heads.key_value {
            tasks.extend(blocks(&tokens, cache.positions()).map(|block| (block, head, *cache)));
        }
    }
    let tasks = tasks.into_par_iter().with_max_len(1);
    tasks.for_each(|((block, before, tokens), head, cache)| {
        let queries = Queries {
            tokens,
            before,
            head,
            heads,
        };
        E::scratch().with_borrow_mut(|scratch| {
            queries.pack(q, scratch);
            let pages = cache.of_head(head).enumerate().take(block + 1);
            for (page, (keys, values, count)) in pages {
                let keys = KeyBlock {
                    keys: from_panel(keys),
                    values,
                    count,
                    is_first: page == 0,
                    is_diagonal: page == block,
                };
                let (scores, panel) = (&mut scratch.scores, &mut scratch.panel);
                queries.attend(keys, &mut scratch.heads, scores, panel);
            }
            queries.write(&scratch.heads, &target, None);
        });
    });
    E::stored(tokens, width, out)
}

/// The blocks of 64 positions that `tokens`, the last of `positions`, lie in: each with the number of its positions before
/// them, and those of them that are in it.
fn blocks(
    tokens: &Range<usize>,
    positions: usize,
) -> impl Iterator<Item = (usize, usize, Range<usize>)> + use<> {
    let (tokens, first) = (tokens.clone(), positions - tokens.len());
    (first / BLOCK..positions.div_ceil(BLOCK)).map(move |block| {
        let start = first.max(block * BLOCK);
        let end = positions.min((block + 1) * BLOCK);
        let at = tokens.start + start - first;
        (block, start - block * BLOCK, at..at + end - start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_fall_into_the_blocks_of_their_positions() {
        let of = |tokens: Range<usize>, positions| blocks(&tokens, positions).collect::<Vec<_>>();
        assert_eq!(of(5..8, 3), [(0, 0, 5..8)]);
        assert_eq!(of(5..8, 64), [(0, 61, 5..8)]);
        assert_eq!(of(5..8, 65), [(0, 62, 5..7), (1, 0, 7..8)]);
        assert_eq!(
            of(0..130, 194),
            [(1, 0, 0..64), (2, 0, 64..128), (3, 0, 128..130)]
        );
    }
}

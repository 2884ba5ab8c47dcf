//! JSON lines: an object a line, read in place.

use std::fs::File;
use std::io::{BufRead, Read};

use rayon::prelude::*;

use super::part::{Built, Checked, MAX_ROW_BYTES, PartBuilder};
use crate::AugmentError;

/// Read at once, and checked by all threads.
pub(super) const BLOCK: usize = 8 << 20;
/// Checked by one thread at once.
const PIECE: usize = 256 << 10;
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Lines of white space are no rows.
pub(super) fn read(mut file: File, mut builder: PartBuilder<'_>) -> Result<Built, AugmentError> {
    // `buffer` holds the file from `base` on, which `lines` lines precede.
    let (mut buffer, mut base, mut lines) = (Vec::new(), 0_u64, 0);
    loop {
        let known = buffer.len();
        let read = (&mut file)
            .take(BLOCK as u64)
            .read_to_end(&mut buffer)
            .map_err(AugmentError::read(builder.path()))?;
        let last_newline = buffer[known..].iter().rposition(|byte| *byte == b'\n');
        let whole = match last_newline {
            Some(newline) => known + newline + 1,
            None if read == 0 => buffer.len(),
            None => 0,
        };
        let mark = base == 0 && buffer.starts_with(BYTE_ORDER_MARK);
        let skipped = if mark && whole > 0 {
            BYTE_ORDER_MARK.len()
        } else {
            0
        };
        let pieces: Vec<_> = pieces(&buffer[skipped..whole])
            .into_par_iter()
            .map(|piece| check_piece(piece, &builder))
            .collect();
        base += skipped as u64;
        for piece in pieces {
            for row in piece.rows {
                builder.take(base, lines, row)?;
            }
            base += piece.bytes as u64;
            lines += piece.lines;
        }
        buffer.drain(..whole);
        if read == 0 {
            return Ok(builder.finish(file));
        }
        if buffer.len() > MAX_ROW_BYTES {
            return Err(builder.too_long(lines + 1).into());
        }
    }
}

/// Whole lines, about [`PIECE`] bytes of them at a time.
fn pieces(mut lines: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while !lines.is_empty() {
        let rest = lines.get(PIECE..).unwrap_or_default();
        let newline = rest.iter().position(|byte| *byte == b'\n');
        let cut = newline.map_or(lines.len(), |newline| PIECE + newline + 1);
        let (piece, rest) = lines.split_at(cut);
        pieces.push(piece);
        lines = rest;
    }
    pieces
}

struct Piece {
    bytes: usize,
    lines: usize,
    rows: Vec<Checked>,
}

fn check_piece(piece: &[u8], builder: &PartBuilder<'_>) -> Piece {
    let (mut rest, mut found) = (piece, Vec::new());
    let (mut lines, mut rows) = (0, Vec::new());
    while !rest.is_empty() {
        lines += 1;
        let start = piece.len() - rest.len();
        let length = rest.skip_until(b'\n').expect("memory can be read");
        let line = &piece[start..start + length];
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let outcome = builder.needs().met_by_text(text, &mut found);
        let stop = outcome.is_err() && builder.stops_at_a_bad_row();
        rows.push(Checked {
            start: start + (length - line.trim_ascii_start().len()),
            length: text.len(),
            number: lines,
            outcome,
        });
        if stop {
            break;
        }
    }
    Piece {
        bytes: piece.len(),
        lines,
        rows,
    }
}

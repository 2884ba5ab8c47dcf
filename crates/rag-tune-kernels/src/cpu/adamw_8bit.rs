use rayon::prelude::*;

use super::{adamw, rows_per_task};
use crate::adamw::{AdamState, AdamW};
use crate::adamw_8bit::Adam8BitState;
use crate::blockwise::{BLOCK, Blockwise, DynamicMap};

/// Blocks do not depend on each other, so that the number of threads changes nothing.
pub(crate) fn update(
    config: &AdamW,
    step: u64,
    lr: f32,
    gradient_scale: f32,
    gradient: &[f32],
    state: &mut Adam8BitState<'_>,
) {
    let moments = blocks(state.first_moment).zip(blocks(state.second_moment));
    let parameters = state.parameter.par_chunks_mut(BLOCK);
    let work = parameters.zip(gradient.par_chunks(BLOCK)).zip(moments);
    work.with_min_len(rows_per_task(BLOCK))
        .for_each(|((parameter, gradient), (first, second))| {
            let len = parameter.len();
            let (mut first_moment, mut second_moment) = ([0.0; BLOCK], [0.0; BLOCK]);
            let (m, v) = (&mut first_moment[..len], &mut second_moment[..len]);
            let (signed, unsigned) = (DynamicMap::signed(), DynamicMap::unsigned());
            signed.dequantize_block(first.0, *first.1, m);
            unsigned.dequantize_block(second.0, *second.1, v);
            let mut state = AdamState {
                parameter,
                first_moment: m,
                second_moment: v,
            };
            adamw::update(config, step, lr, gradient_scale, gradient, &mut state);
            *first.1 = signed.quantize_block(m, first.0);
            *second.1 = unsigned.quantize_block(v, second.0);
        });
}

/// Codes and scale of each block.
fn blocks(moment: &mut Blockwise) -> impl IndexedParallelIterator<Item = (&mut [u8], &mut f32)> {
    moment
        .codes
        .par_chunks_mut(BLOCK)
        .zip(moment.absmax.par_iter_mut())
}

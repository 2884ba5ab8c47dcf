//! What a GGUF calls the tensors of a Llama, and how it orders their rows.

/// The GGUF name of a Hugging Face tensor name; `None` for one that no Llama has.
///
/// `model.layers.3.self_attn.q_proj.weight` is `blk.3.attn_q.weight`.
pub(crate) fn gguf_name(hf_name: &str) -> Option<String> {
    match hf_name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, part) = hf_name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = part.rsplit_once('.')?;
    let module = match (module, kind) {
        ("input_layernorm", "weight") => "attn_norm",
        ("self_attn.q_proj", "weight" | "bias") => "attn_q",
        ("self_attn.k_proj", "weight" | "bias") => "attn_k",
        ("self_attn.v_proj", "weight" | "bias") => "attn_v",
        ("self_attn.o_proj", "weight" | "bias") => "attn_output",
        ("post_attention_layernorm", "weight") => "ffn_norm",
        ("mlp.gate_proj", "weight" | "bias") => "ffn_gate",
        ("mlp.up_proj", "weight" | "bias") => "ffn_up",
        ("mlp.down_proj", "weight" | "bias") => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{kind}"))
}

/// Puts the rows of a `q_proj` or `k_proj` back into Hugging Face's order.
///
/// llama.cpp turns neighbouring values of a head, transformers turns value `i`
/// against value `i + head_dim / 2`; the converter reorders the rows so that
/// both compute the same: Hugging Face's row `(head, half, i)` lies in a GGUF
/// at `(head, i, half)`.
///
/// `interleaved` is `[heads * head_dim, in_features]`, row-major, and
/// `head_dim` is even. A bias has one feature.
pub(super) fn rows_to_half_split(
    interleaved: &[f32],
    head_dim: usize,
    in_features: usize,
) -> Vec<f32> {
    let row = |index: usize| &interleaved[index * in_features..(index + 1) * in_features];
    let mut values = Vec::with_capacity(interleaved.len());
    let rows = interleaved.len() / in_features;
    for head_start in (0..rows).step_by(head_dim) {
        for half in 0..2 {
            for pair in 0..head_dim / 2 {
                values.extend_from_slice(row(head_start + 2 * pair + half));
            }
        }
    }
    values
}

/// The inverse of [`rows_to_half_split`]: rows in Hugging Face's order are put into a GGUF's.
///
/// `half_split` is `[heads * head_dim, in_features]`, row-major, and `head_dim` is even.
pub(crate) fn rows_to_interleaved(
    half_split: &[f32],
    head_dim: usize,
    in_features: usize,
) -> Vec<f32> {
    let row = |index: usize| &half_split[index * in_features..(index + 1) * in_features];
    let mut values = Vec::with_capacity(half_split.len());
    let rows = half_split.len() / in_features;
    for head_start in (0..rows).step_by(head_dim) {
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                values.extend_from_slice(row(head_start + half * (head_dim / 2) + pair));
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_of_a_llama_has_a_gguf_name() {
        let name = |hf_name| gguf_name(hf_name).unwrap();
        assert_eq!(
            name("model.layers.12.mlp.down_proj.weight"),
            "blk.12.ffn_down.weight"
        );
        assert_eq!(
            name("model.layers.0.input_layernorm.weight"),
            "blk.0.attn_norm.weight"
        );
        assert_eq!(name("lm_head.weight"), "output.weight");
        assert_eq!(
            name("model.layers.0.self_attn.q_proj.bias"),
            "blk.0.attn_q.bias"
        );
        assert_eq!(gguf_name("model.layers.0.input_layernorm.bias"), None);
        assert_eq!(gguf_name("model.layers.0.self_attn.q_norm.weight"), None);
    }

    /// Two heads of four rows with one column. The converter's
    /// `reshape(heads, 2, 2, in).swapaxes(1, 2)` turns rows 0 1 2 3 into 0 2 1 3.
    #[test]
    fn rows_come_back_from_the_converters_order() {
        let converted = [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0];
        let rows = rows_to_half_split(&converted, 4, 1);
        assert_eq!(rows, [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
    }

    #[test]
    fn interleaving_is_undone_by_splitting() {
        let rows: Vec<f32> = (0..3 * 8 * 2).map(|value| value as f32).collect();
        let interleaved = rows_to_interleaved(&rows, 8, 2);
        assert_ne!(interleaved, rows);
        assert_eq!(rows_to_half_split(&interleaved, 8, 2), rows);
    }

    #[test]
    fn a_row_moves_as_a_whole() {
        let rows = rows_to_half_split(&[0.0, 0.5, 2.0, 2.5, 1.0, 1.5, 3.0, 3.5], 4, 2);
        assert_eq!(rows, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]);
    }
}

//! Shapes of models that can be planned and timed without their files.

use super::{LlamaConfig, RopeScaling};

impl LlamaConfig {
    /// The names that [`Self::known`] knows.
    pub const KNOWN: [&str; 3] = ["codellama-7b", "llama-2-7b", "smollm2-135m"];

    /// One of [`Self::KNOWN`], as its config.json on the hub states it.
    pub fn known(name: &str) -> Option<Self> {
        let llama_2 = Self {
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            vocab_size: 32_000,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::None,
            max_position_embeddings: 4096,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
        };
        match name {
            "llama-2-7b" => Some(llama_2),
            "codellama-7b" => Some(Self {
                vocab_size: 32_016,
                rope_theta: 1e6,
                max_position_embeddings: 16_384,
                ..llama_2
            }),
            "smollm2-135m" => Some(Self {
                hidden_size: 576,
                intermediate_size: 1536,
                num_hidden_layers: 30,
                num_attention_heads: 9,
                num_key_value_heads: 3,
                head_dim: 64,
                vocab_size: 49_152,
                rope_theta: 1e5,
                max_position_embeddings: 8192,
                tie_word_embeddings: true,
                ..llama_2
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::Projection;

    /// What the models' own pages state: 6.74 and 134.5 million.
    #[test]
    fn known_shapes_have_the_known_number_of_parameters() {
        let parameters = LlamaConfig::KNOWN.map(|name| {
            let shape = LlamaConfig::known(name).unwrap();
            let of_block = Projection::ALL.map(|of| of.shape(&shape).iter().product::<usize>());
            let vocabularies = if shape.tie_word_embeddings { 1 } else { 2 };
            let norms = (2 * shape.num_hidden_layers + 1) * shape.hidden_size;
            shape.num_hidden_layers * of_block.iter().sum::<usize>()
                + vocabularies * shape.vocab_size * shape.hidden_size
                + norms
        });
        assert_eq!(parameters, [6_738_546_688, 6_738_415_616, 134_515_008]);
    }
}

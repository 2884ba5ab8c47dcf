use std::path::Path;

use rag_tune_kernels::Sequences;

use super::*;
use crate::block::Kept;
use crate::checkpoint::Checkpoint;
use crate::config;
use crate::llama::Llama;
use crate::lora::{Adapter, LoraFactors};

fn cases() -> Vec<(&'static str, ModelConfig)> {
    let mut cases = Vec::new();
    for model in ["tiny_tied", "tiny_untied", "tiny_biases"] {
        for (quantization, double_quantization) in [
            (Quantization::None, false),
            (Quantization::Int8, false),
            (Quantization::Nf4, false),
            (Quantization::Nf4, true),
        ] {
            for compute in [config::Compute::F32, config::Compute::Auto] {
                let config = ModelConfig {
                    quantization,
                    double_quantization,
                    compute,
                    ..Default::default()
                };
                cases.push((model, config));
            }
        }
    }
    cases
}

fn load(model: &str, config: &ModelConfig) -> Llama {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden");
    let checkpoint = Checkpoint::open(&golden.join(model)).unwrap();
    Llama::load(&checkpoint, config, &mut |_, _| ()).unwrap()
}

fn settings() -> LoraSettings {
    let mut settings = LoraSettings::uniform(3, 6.0, Projection::ALL);
    settings.rank_pattern = [("layers.1.self_attn.q_proj".to_owned(), 5)].into();
    settings
}

#[test]
fn counted_weights_are_the_loaded_ones() {
    for (model, config) in cases() {
        let llama = load(model, &config);
        let footprint = Footprint::new(llama.config(), &config, settings(), 0.0);
        assert_eq!(
            footprint.weight_bytes(),
            llama.weight_bytes(),
            "{model} {config:?}"
        );
    }
}

#[test]
fn counted_tensors_are_the_adapters() {
    let llama = load("tiny_tied", &ModelConfig::default());
    for use_dora in [false, true] {
        let settings = LoraSettings {
            use_dora,
            ..settings()
        };
        let footprint = Footprint::new(
            llama.config(),
            &ModelConfig::default(),
            settings.clone(),
            0.0,
        );
        let adapter = llama.fresh_adapter(settings, 1).unwrap();
        let tensors = adapter.layers.values().flat_map(LoraFactors::tensors);
        let lengths: Vec<usize> = tensors.map(|(_, tensor)| tensor.data().len()).collect();
        assert_eq!(footprint.adapter_tensors(), lengths);
    }
}

#[test]
fn counted_activations_are_those_that_a_pass_keeps() {
    let lengths = [5, 11];
    let tokens = lengths.iter().sum::<usize>();
    let sequences = Sequences::from_lengths(&lengths).unwrap();
    let positions = sequences.positions();
    for (model, config) in cases() {
        let llama = load(model, &config);
        let adapter: Adapter = llama.fresh_adapter(settings(), 1).unwrap();
        let footprint = Footprint::new(llama.config(), &config, settings(), 0.0);
        let applied = llama.applied(&adapter).unwrap();
        let context = llama.context(&positions, Some(&applied), None);
        for keep in [Keep::BlockInput, Keep::Selective, Keep::All] {
            let mut x = llama.embedding.gather_rows(&vec![7; tokens]).unwrap();
            let mut kept_bytes = 0;
            for block in &llama.blocks {
                let (y, kept) = block.forward(x, &sequences, context, keep).unwrap();
                kept_bytes += Kept::bytes(&kept);
                x = y;
            }
            let counted = footprint.activation_bytes(keep, tokens);
            assert_eq!(counted, kept_bytes, "{model} {config:?} {keep:?}");
        }
    }
}

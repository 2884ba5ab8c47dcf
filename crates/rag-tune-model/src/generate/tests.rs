//! What a row answers depends on nothing beside it; on a small model made of noise.

use super::*;
use crate::config::{Compute, LlamaConfig, ModelConfig, RopeScaling};
use crate::lora::Projection;
use crate::lora_settings::LoraSettings;
use crate::tokenizer::tests::byte_level;

/// With as many tokens as [`byte_level`] has.
pub(super) fn shape() -> LlamaConfig {
    LlamaConfig {
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        vocab_size: 262,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        max_position_embeddings: 256,
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    }
}

fn model(compute: Compute) -> Llama {
    let config = ModelConfig {
        compute,
        ..Default::default()
    };
    Llama::synthetic(&shape(), &config).unwrap()
}

/// One that changes the answers.
fn adapter(model: &Llama) -> Adapter {
    let mut adapter = Adapter::new(
        model.config(),
        LoraSettings::uniform(4, 8.0, Projection::ALL),
        5,
    );
    for (place, lora) in &mut adapter.layers {
        for (index, value) in lora.b.data_mut().iter_mut().enumerate() {
            *value = ((index * 37 + place.0) % 19) as f32 / 90.0 - 0.1;
        }
    }
    adapter
}

/// `rows` prompts that begin with the same `shared` tokens, each with a length of its own.
fn prompts(rows: usize, shared: usize) -> Vec<Vec<u32>> {
    let id = |at: usize| 3 + (at * 29 % 255) as u32;
    let row = |row: usize| {
        let own = (0..2 + 9 * row).map(|at| id(at * 3 + row * 11 + 100));
        (0..shared)
            .map(id)
            .chain([3 + row as u32])
            .chain(own)
            .collect()
    };
    (0..rows).map(row).collect()
}

fn options(batch_size: usize, sampling: Sampling) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 12,
        batch_size,
        stop_texts: Vec::new(),
        sampling,
    }
}

fn nucleus(top_p: f32, seed: u64) -> Sampling {
    Sampling::Nucleus {
        temperature: 1.0,
        top_p,
        seed,
    }
}

/// Logits of the last prompt token and of one token more, row by row.
fn logits(engine: &mut Engine<'_>, prompts: &[&[u32]], shared: &Sequence) -> Vec<[Vec<f32>; 2]> {
    let own: Vec<&[u32]> = prompts
        .iter()
        .map(|prompt| &prompt[shared.tokens..])
        .collect();
    let mut rows = vec![shared.clone(); prompts.len()];
    let first = engine.prefill(&own, &mut rows.iter_mut().collect::<Vec<_>>());
    let ids = vec![77; prompts.len()];
    let second = engine.decode(&ids, &mut rows.iter_mut().collect::<Vec<_>>());
    let [first, second] = [first, second].map(|it| it.unwrap().to_host().unwrap().into_owned());
    (0..prompts.len())
        .map(|row| [first.row(row).to_vec(), second.row(row).to_vec()])
        .collect()
}

/// Whether the logits of some rows, each alone and behind nothing, are `close` to those together and behind shared tokens.
fn compare_logits(engine: &mut Engine<'_>, close: impl Fn(f32, f32) -> bool) {
    let prompts = prompts(9, 70);
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let none = Sequence::default();
    let one_by_one = |engine: &mut Engine<'_>, shared: &Sequence| -> Vec<_> {
        let rows = prompts.iter();
        rows.flat_map(|prompt| logits(engine, &[prompt], shared))
            .collect()
    };
    let compute = engine.model.compute();
    let alone = one_by_one(engine, &none);
    let check = |got: Vec<[Vec<f32>; 2]>, case: &str| {
        let pairs = alone
            .iter()
            .flatten()
            .flatten()
            .zip(got.iter().flatten().flatten());
        assert!(pairs.clone().count() == 9 * 2 * 262);
        let different = pairs.filter(|(a, b)| !close(**a, **b)).count();
        assert_eq!(different, 0, "{case}, {compute:?}");
    };
    check(logits(engine, &prompts, &none), "together");
    for shared in [16, 64, 70] {
        let prefix = engine.prefix(&prompts[0][..shared]).unwrap();
        check(
            logits(engine, &prompts, &prefix),
            "together behind shared tokens",
        );
        check(one_by_one(engine, &prefix), "alone behind shared tokens");
    }
}

/// Prefill, decoding and a shared beginning on a device, at most twice as far from f32 as the CPU is in bf16. Kernels are chosen by the
/// number of rows, so that a row's bits do depend on the rows beside it there.
#[test]
fn a_device_gives_the_logits_of_the_cpu() {
    let device = rag_tune_kernels::cuda::Device::emulated(0x5eed).unwrap();
    let there = model(Compute::Bf16).into_device(&device).unwrap();
    let (exact, plain) = (model(Compute::F32), model(Compute::Bf16));
    let adapter = adapter(&exact);
    let prompts = prompts(4, 20);
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let of = |model: &Llama, shared: usize| -> Vec<f32> {
        let applied = model.applied(&adapter).unwrap();
        let mut engine = Engine::new(model, Some(&applied));
        let prefix = match shared {
            0 => Sequence::default(),
            tokens => engine.prefix(&prompts[0][..tokens]).unwrap(),
        };
        let rows = logits(&mut engine, &prompts, &prefix);
        rows.into_iter().flatten().flatten().collect()
    };
    let expected = of(&exact, 0);
    let distance = |values: Vec<f32>| {
        let squares = values.iter().zip(&expected).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f32>().sqrt()
    };
    let allowed = 2.0 * distance(of(&plain, 0));
    for shared in [0, 20] {
        let error = distance(of(&there, shared));
        assert!(
            error <= allowed,
            "{shared} shared tokens: {error}, at most {allowed}"
        );
    }
}

/// Rows that leave, one that comes, a cache that grows and takes a second block: with recorded steps and without.
#[test]
fn recorded_steps_give_the_bits_of_steps_that_were_not() {
    let config = LlamaConfig {
        max_position_embeddings: 300,
        ..shape()
    };
    let device = rag_tune_kernels::cuda::Device::emulated(0).unwrap();
    let model = Llama::synthetic(&config, &ModelConfig::default()).unwrap();
    let adapter = adapter(&model);
    let model = model.into_device(&device).unwrap();
    let applied = model.applied(&adapter).unwrap();
    let prompts: Vec<Vec<u32>> = [251, 3, 40, 9, 12]
        .map(|length| (0..length).map(|at| 3 + at * 29 % 255).collect())
        .into();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let run = |is_recorded: bool| -> Vec<Vec<f32>> {
        let mut engine = Engine::new(&model, Some(&applied));
        let mut rows = vec![Sequence::default(); prompts.len()];
        let prefill = engine.prefill(&prompts, &mut rows.iter_mut().collect::<Vec<_>>());
        prefill.unwrap();
        let late = rows.pop().unwrap();
        let mut steps = Vec::new();
        for step in 0..12 {
            match step {
                4 => rows.truncate(2),
                8 => rows.push(late.clone()),
                _ => {}
            }
            if !is_recorded {
                engine = Engine::new(&model, Some(&applied));
            }
            let ids: Vec<u32> = (0..rows.len() as u32)
                .map(|row| 5 + 7 * row + step)
                .collect();
            let logits = engine.decode(&ids, &mut rows.iter_mut().collect::<Vec<_>>());
            let logits = logits.unwrap().to_host().unwrap().into_owned();
            let chosen = Sampling::Greedy.choose(&logits, &vec![(0, 0); rows.len()]);
            assert_eq!(chosen.unwrap().len(), rows.len());
            steps.push(logits.data()[..rows.len() * 262].to_vec());
        }
        assert_eq!(rows[0].tokens, 263);
        steps
    };
    let (recorded, plain) = (run(true), run(false));
    assert!(plain.iter().flatten().all(|it| it.is_finite()));
    for (step, (recorded, plain)) in recorded.iter().zip(&plain).enumerate() {
        assert!(recorded == plain, "step {step}");
    }
}

#[test]
fn logits_of_a_row_are_the_same_bits_beside_others_and_behind_shared_tokens() {
    for compute in [Compute::Bf16, Compute::Int8] {
        let model = model(compute);
        compare_logits(&mut Engine::new(&model, None), |a, b| {
            a.to_bits() == b.to_bits()
        });
    }
}

/// f32 matrices, as the head in f32 compute and an adapter's are, go through `gemm`, whose sums are in an order of its own for a
/// single row. Logits reach 2.
#[test]
fn logits_with_f32_matrices_differ_by_the_rounding_of_sums() {
    let model = model(Compute::F32);
    let adapter = adapter(&model);
    for adapter in [None, Some(&adapter)] {
        let applied = adapter.map(|adapter| model.applied(adapter).unwrap());
        compare_logits(&mut Engine::new(&model, applied.as_ref()), |a, b| {
            (a - b).abs() < 2e-5
        });
    }
}

#[test]
fn what_all_prompts_begin_with_runs_once() {
    let model = model(Compute::F32);
    let tokenizer = byte_level();
    let adapter = adapter(&model);
    let run = |prompts: &[Vec<u32>]| {
        let options = options(4, Sampling::Greedy);
        generate(
            &model,
            Some(&adapter),
            &tokenizer,
            prompts,
            &options,
            &mut |_| {},
        )
        .unwrap()
    };
    let prompts = prompts(5, 40);
    let lengths = |prompts: &[Vec<u32>]| prompts.iter().map(Vec::len).sum::<usize>();
    let all = run(&prompts);
    assert_eq!(
        (all.shared_tokens, all.prefilled_tokens),
        (40, lengths(&prompts) - 4 * 40)
    );
    for (prompt, answer) in prompts.iter().zip(&all.answers) {
        let alone = run(std::slice::from_ref(prompt));
        assert_eq!(
            (alone.shared_tokens, alone.prefilled_tokens),
            (0, prompt.len())
        );
        assert_eq!(&alone.answers[0], answer);
    }
    // Equal prompts: the last token is each row's own. A few tokens are not worth it.
    let equal = vec![prompts[0].clone(); 3];
    assert_eq!(run(&equal).shared_tokens, prompts[0].len() - 1);
    let few = self::prompts(3, 15);
    assert_eq!(run(&few).shared_tokens, 0);
}

#[test]
fn sampled_answers_depend_on_the_seed_and_not_on_the_batch() {
    let model = model(Compute::F32);
    let (tokenizer, prompts) = (byte_level(), prompts(7, 20));
    let answers = |batch_size, sampling| {
        let options = options(batch_size, sampling);
        let generated = generate(&model, None, &tokenizer, &prompts, &options, &mut |_| {});
        generated.unwrap().answers
    };
    let first = answers(1, nucleus(1.0, 3));
    for batch_size in [2, 3, 16] {
        assert_eq!(
            answers(batch_size, nucleus(1.0, 3)),
            first,
            "{batch_size} rows"
        );
    }
    assert_ne!(answers(4, nucleus(1.0, 4)), first, "another seed");
    let greedy = answers(4, Sampling::Greedy);
    assert_ne!(greedy, first);
    assert_eq!(
        answers(4, nucleus(1e-6, 3)),
        greedy,
        "a nucleus of one token"
    );
}

#[test]
fn the_pieces_of_an_answer_are_the_answer() {
    let model = model(Compute::F32);
    let (tokenizer, prompts) = (byte_level(), prompts(6, 20));
    let mut options = options(3, nucleus(1.0, 8));
    options.max_new_tokens = 40;
    options.stop_texts = ["e", "yz", "\n"].map(str::to_owned).into();
    let mut pieces = vec![Vec::new(); prompts.len()];
    let mut done = vec![None; prompts.len()];
    let mut on_event = |event: Event<'_>| match event {
        Event::Text { row, text } => {
            assert!(done[row].is_none() && !text.is_empty());
            pieces[row].push(text.to_owned());
        }
        Event::Done { row, answer } => {
            assert_eq!(done[row].replace(answer.to_owned()), None, "finished once");
        }
    };
    let answers = generate(&model, None, &tokenizer, &prompts, &options, &mut on_event);
    let answers = answers.unwrap().answers;
    assert!(pieces.iter().any(|pieces| pieces.len() > 5), "{pieces:?}");
    for (row, answer) in answers.iter().enumerate() {
        assert_eq!(pieces[row].concat(), *answer);
        assert_eq!(done[row].as_ref(), Some(answer));
        assert!(
            options
                .stop_texts
                .iter()
                .all(|stop| !answer.contains(stop.as_str()))
        );
    }
}

#[test]
fn options_out_of_range_are_named() {
    let (model, tokenizer) = (model(Compute::F32), byte_level());
    let error = |options: GenerateOptions| {
        let refused = generate(&model, None, &tokenizer, &[vec![3]], &options, &mut |_| {});
        refused.unwrap_err().to_string()
    };
    assert_eq!(
        error(options(1, nucleus(2.0, 0))),
        "top_p is 2, expected above 0 and at most 1"
    );
    let mut empty = options(1, Sampling::Greedy);
    empty.stop_texts.push(String::new());
    assert!(error(empty).starts_with("a text that ends an answer is empty"));
}

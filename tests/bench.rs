//! `rag-tune bench` on a tiny model: what it prints, and what it refuses.

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Run, rag_tune, toy_model};

fn run(arguments: &[&str]) -> Run {
    rag_tune(Path::new(env!("CARGO_MANIFEST_DIR")), arguments)
}

const TINY: &str = "../../tests/fixtures/golden/tiny_tied";

/// The one line of JSON that `bench WORK` prints for the tiny model.
fn figures(work: &str, more: &[&str]) -> Value {
    let fixed = ["bench", work, "--base", TINY, "--steps", "2", "--json"];
    let text = run(&[&fixed, more].concat()).ok();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn assert_positive(figures: &Value, names: &[&str]) {
    for name in names {
        let value = figures[*name].as_f64();
        assert!(value.is_some_and(|value| value > 0.0), "{name}: {figures}");
    }
}

#[test]
fn training_and_forward_tell_speed_memory_and_share() {
    for work in ["train", "forward"] {
        let size = [
            "--batch",
            "3",
            "--seq",
            "7",
            "--rank",
            "2",
            "--threads",
            "2",
        ];
        let figures = figures(work, &size);
        assert_eq!(figures["work"], work);
        assert_eq!(
            [
                &figures["batch"],
                &figures["seq"],
                &figures["rank"],
                &figures["threads"]
            ],
            [3, 7, 2, 2]
        );
        let measured = [
            "tokens_per_s",
            "step_s",
            "share_of_peak",
            "peak_rss_mib",
            "weight_bytes",
        ];
        assert_positive(&figures, &measured);
        assert!(
            figures["share_of_peak"].as_f64().unwrap() < 1.0,
            "{figures}"
        );
        assert_eq!(figures["peak_gpu_mib"], Value::Null);
        // Both numbers come from one median.
        let tokens =
            figures["tokens_per_s"].as_f64().unwrap() * figures["step_s"].as_f64().unwrap();
        assert!((tokens - 21.0).abs() < 0.1, "{figures}");
    }
}

#[test]
fn generation_tells_prefill_and_decoding_apart() {
    let size = [
        "--batch",
        "2",
        "--seq",
        "5",
        "--new",
        "4",
        "--compute",
        "f32",
    ];
    let figures = figures("generate", &size);
    assert_positive(
        &figures,
        &[
            "tokens_per_s",
            "step_s",
            "prefill_tokens_per_s",
            "decode_tokens_per_s",
            "share_of_peak",
            "decode_bytes",
            "share_of_bandwidth",
            "peak_rss_mib",
        ],
    );
    assert_eq!(figures["compute"], "f32");
    assert_eq!(figures["peak_gpu_mib"], Value::Null);
}

#[test]
fn one_new_token_has_no_decoding() {
    let figures = figures("generate", &["--seq", "5", "--new", "1"]);
    assert_positive(&figures, &["prefill_tokens_per_s"]);
    assert_eq!(figures["decode_tokens_per_s"], Value::Null);
    assert_eq!(figures["share_of_bandwidth"], Value::Null);
}

#[test]
fn a_model_of_noise_needs_a_shape_only() {
    let config = format!("{TINY}/config.json");
    let text = run(&[
        "bench",
        "forward",
        "--synthetic",
        &config,
        "--batch",
        "1",
        "--seq",
        "4",
        "--steps",
        "1",
    ])
    .ok();
    let header = text.lines().next().unwrap();
    for column in ["tokens/s", "s/step", "% of peak", "peak RSS MiB"] {
        assert!(header.contains(column), "{text}");
    }
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn ceilings_are_told_in_json_and_as_a_table() {
    let text = run(&["bench", "ceilings", "--json"]).ok();
    let figures: Value = serde_json::from_str(&text).unwrap();
    assert_positive(
        &figures,
        &[
            "f32_op_per_s",
            "bf16_op_per_s",
            "int8_op_per_s",
            "memory_read_bytes_per_s",
        ],
    );
    assert_eq!(figures["instructions"].as_array().unwrap().len(), 3);
    assert!(
        run(&["bench", "ceilings"])
            .ok()
            .contains("memory read GB/s")
    );
}

#[test]
fn what_cannot_be_timed_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    toy_model::write(folder.path(), 1);
    let toy = folder.path().to_str().unwrap();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["train"], &["--base <MODEL>"]),
        (
            &["train", "--base", "x", "--synthetic", "y"],
            &["--synthetic", "--base"],
        ),
        (
            &["train", "--base", "no/such-model"],
            &["cannot open the base model `no/such-model`"],
        ),
        (
            &["forward", "--synthetic", "llama-9"],
            &[
                "`llama-9` is no known shape",
                "hint: known shapes: codellama-7b",
            ],
        ),
        (
            &["train", "--base", toy, "--seq", "2"],
            &["--seq 2 leaves no token to learn"],
        ),
        (
            &["generate", "--base", toy, "--seq", "2000", "--new", "49"],
            &["asks for 2049 tokens in a row", "was made for at most 2048"],
        ),
        (
            &["generate", "--base", toy, "--compute", "f23"],
            &["unknown variant `f23`", "bf16"],
        ),
        (&["train", "--base", toy, "--batch", "0"], &["--batch"]),
    ];
    for (arguments, parts) in cases {
        let text = run(&[&["bench"], arguments].concat()).refused();
        for part in parts {
            assert!(text.contains(part), "no `{part}` in:\n{text}");
        }
    }
}

#[test]
fn charts_are_drawn_of_printed_figures() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let lines: String = ["1", "2"]
        .map(|threads| {
            let mut line = figures("forward", &["--threads", threads, "--seq", "8"]);
            line["sweep"] = "threads".into();
            line["program"] = "rag-tune".into();
            format!("{line}\n")
        })
        .concat();
    std::fs::write(path("lines.jsonl"), lines).unwrap();
    let out = path("charts");
    let said = run(&["bench", "chart", &path("lines.jsonl"), "--out", &out]).ok();
    assert_eq!(said, format!("{out}/threads.svg\n"));
    let svg = std::fs::read_to_string(format!("{out}/threads.svg")).unwrap();
    for text in ["Speed by threads", "tokens a second", "forward"] {
        assert!(svg.contains(text), "{text}");
    }

    std::fs::write(path("lines.jsonl"), "{\"sweep\": \"rows\"}\n").unwrap();
    let text = run(&["bench", "chart", &path("lines.jsonl"), "--out", &out]).refused();
    assert!(text.contains("line 1 is no figure"), "{text}");
}

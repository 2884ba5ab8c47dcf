//! A tiny SentencePiece model with the ids of SentencePiece itself (`scripts/golden_sentencepiece.py`).

use std::fs;
use std::path::PathBuf;

use prost::Message;
use serde::Deserialize;

use super::*;
use crate::tokenizer::from_sentencepiece::ModelProto;

#[derive(Deserialize)]
struct Golden {
    tokens: HashMap<String, u32>,
    examples: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

const BOS: u32 = 1;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/model/sentencepiece")
        .join(name)
}

fn golden() -> Golden {
    serde_json::from_str(&fs::read_to_string(fixture("golden.json")).unwrap()).unwrap()
}

pub(crate) fn tiny() -> Tokenizer {
    Tokenizer::from_sentencepiece(&fixture("tokenizer.model")).unwrap()
}

fn proto() -> ModelProto {
    ModelProto::decode(fs::read(fixture("tokenizer.model")).unwrap().as_slice()).unwrap()
}

/// The same pieces in the metadata of a GGUF, as llama.cpp's converter writes them.
fn gguf_metadata() -> HashMap<String, Value> {
    let pieces = proto().pieces;
    let of = |value: fn(&super::super::from_sentencepiece::PieceProto) -> Value| {
        Value::Array(pieces.iter().map(value).collect())
    };
    [
        ("tokenizer.ggml.model", Value::String("llama".to_owned())),
        (
            "tokenizer.ggml.tokens",
            of(|piece| Value::String(piece.piece().to_owned())),
        ),
        (
            "tokenizer.ggml.scores",
            of(|piece| Value::F32(piece.score())),
        ),
        (
            "tokenizer.ggml.token_type",
            of(|piece| Value::I32(piece.kind())),
        ),
        ("tokenizer.ggml.bos_token_id", Value::U32(BOS)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

#[test]
fn ids_and_texts_are_those_of_sentencepiece() {
    let golden = golden();
    assert!(golden.examples.len() > 200);
    for tokenizer in [tiny(), build(&gguf_metadata()).unwrap()] {
        assert_eq!(
            (tokenizer.bos_id(), tokenizer.eos_ids()),
            (Some(BOS), [2].as_slice())
        );
        for Example { text, ids, decoded } in &golden.examples {
            let ours = tokenizer.encode(text).unwrap();
            assert_eq!(ours[0], BOS);
            assert_eq!(&ours[1..], ids, "{text:?}");
            assert_eq!(&tokenizer.decode(&ours).unwrap(), decoded, "{text:?}");
        }
    }
}

/// What has been decoded stays, but for bytes of a character that is not complete yet.
#[test]
fn the_text_of_growing_ids_only_grows() {
    let tokenizer = tiny();
    for Example { ids, decoded, .. } in golden().examples {
        let mut before = 0;
        for length in 0..=ids.len() {
            let text = tokenizer.decode(&ids[..length]).unwrap();
            let complete = text.trim_end_matches('\u{FFFD}');
            assert!(decoded.starts_with(complete), "{complete:?} of {decoded:?}");
            // A character behind others that are bytes too: then they wait for it.
            let waits = complete.len() < text.len();
            assert!(waits || complete.len() >= before, "{decoded:?}");
            before = complete.len().max(before);
        }
        assert_eq!(before, decoded.len());
    }
}

#[test]
fn infilling_and_control_tokens_are_special_and_user_defined_ones_are_text() {
    let tokenizer = tiny();
    let id = |token: &str| golden().tokens[token];
    let (prefix, suffix, middle) = (id("▁<PRE>"), id("▁<SUF>"), id("▁<MID>"));
    for tokenizer in [&tokenizer, &build(&gguf_metadata()).unwrap()] {
        let ids = tokenizer
            .encode("▁<PRE> def f(▁<SUF>return x▁<MID>")
            .unwrap();
        let found: Vec<u32> = ids.iter().copied().filter(|id| *id >= prefix).collect();
        assert_eq!((ids[1], ids[ids.len() - 1]), (prefix, middle));
        assert_eq!(found, [prefix, suffix, middle]);
        // Each part begins as a text of its own.
        let part = tokenizer.encode("return x").unwrap();
        let parts: Vec<&[u32]> = ids.split(|id| *id >= prefix).collect();
        assert_eq!(parts[2], &part[1..]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), " def f( return x");
        let eot = id("▁<EOT>");
        assert_eq!(tokenizer.token(eot).unwrap(), "▁<EOT>");
        assert_eq!(tokenizer.decode(&[eot]).unwrap(), "");

        assert_eq!(tokenizer.encode("</s>").unwrap(), [BOS, 2]);
        assert_eq!(tokenizer.encode("<s>").unwrap(), [BOS]);
        let turn = id("<turn>");
        assert_eq!(tokenizer.encode("<turn>").unwrap(), [BOS, turn]);
        assert_eq!(tokenizer.decode(&[turn]).unwrap(), "<turn>");
    }
}

/// A folder with the tiny tokenizer.model.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    fs::copy(fixture("tokenizer.model"), &path).unwrap();
    (folder, path)
}

#[test]
fn neighbours_add_tokens_and_name_special_ones() {
    let (folder, path) = folder();
    let write = |name: &str, content: &serde_json::Value| {
        fs::write(folder.path().join(name), content.to_string()).unwrap();
    };
    let described = |content: &str, special: bool| {
        json!({"content": content, "special": special, "normalized": false, "lstrip": false, "rstrip": false,
               "single_word": false})
    };
    write(
        "tokenizer_config.json",
        &json!({
            "add_bos_token": false,
            "eos_token": {"content": "<end>"},
            "added_tokens_decoder": {
                "2": described("</s>", true), "607": described("<end>", true), "608": described("<tool>", false),
            },
        }),
    );
    write("generation_config.json", &json!({ "eos_token_id": [2] }));
    let tokenizer = Tokenizer::from_sentencepiece(&path).unwrap();
    assert_eq!(tokenizer.eos_ids(), [607, 2]);
    assert_eq!(tokenizer.encode("<tool><end>").unwrap(), [608, 607]);
    assert_eq!(tokenizer.decode(&[608, 607]).unwrap(), "<tool>");

    write(
        "tokenizer_config.json",
        &json!({ "add_prefix_space": false }),
    );
    let special = json!({ "additional_special_tokens": ["<end>"] });
    write("special_tokens_map.json", &special);
    write("added_tokens.json", &json!({"<end>": 607, "<tool>": 608}));
    let tokenizer = Tokenizer::from_sentencepiece(&path).unwrap();
    assert_eq!(tokenizer.decode(&[608, 607]).unwrap(), "<tool>");
    let e = tokens(&tokenizer, "e");
    assert_eq!(e, ["<s>", "e"], "without a space before it");
    assert_eq!(
        tokenizer
            .decode(&tokenizer.encode(" e e").unwrap())
            .unwrap(),
        " e e"
    );

    write("added_tokens.json", &json!({ "<end>": 700 }));
    let error = Tokenizer::from_sentencepiece(&path).unwrap_err();
    let text = "`<end>` would have the id 607, not 700";
    assert!(error.to_string().contains(text), "{error}");
}

#[test]
fn what_would_not_be_exact_is_refused_by_name() {
    let (_folder, path) = folder();
    let refused = |change: &dyn Fn(&mut ModelProto)| {
        let mut proto = proto();
        change(&mut proto);
        fs::write(&path, proto.encode_to_vec()).unwrap();
        let error = Tokenizer::from_sentencepiece(&path).unwrap_err();
        assert!(error.hint().unwrap().contains("tokenizer.json"), "{error}");
        error.to_string()
    };
    fn normalizer(
        proto: &mut ModelProto,
    ) -> &mut crate::tokenizer::from_sentencepiece::NormalizerSpec {
        proto.normalizer.as_mut().unwrap()
    }
    type Change<'a> = &'a dyn Fn(&mut ModelProto);
    let cases: [(Change<'_>, &str); 9] = [
        (
            &|proto| proto.trainer.as_mut().unwrap().model_type = Some(4),
            "type `char`",
        ),
        (
            &|proto| proto.trainer.as_mut().unwrap().treat_whitespace_as_suffix = Some(true),
            "`treat_whitespace_as_suffix`",
        ),
        (
            &|proto| normalizer(proto).remove_extra_whitespaces = None,
            "`remove_extra_whitespaces`",
        ),
        (
            &|proto| normalizer(proto).precompiled_charsmap = Some(vec![1, 2]),
            "`precompiled_charsmap`",
        ),
        (
            &|proto| normalizer(proto).escape_whitespaces = Some(false),
            "`escape_whitespaces`",
        ),
        (&|proto| proto.pieces[0].kind = Some(1), "no unknown piece"),
        (&|proto| proto.pieces[0].kind = Some(9), "of type 9"),
        (
            &|proto| proto.pieces[300].piece = Some("<s>".to_owned()),
            "`<s>` occurs twice",
        ),
        (&|proto| proto.pieces[300].kind = Some(5), "can come about"),
    ];
    for (change, name) in cases {
        let error = refused(change);
        assert!(error.contains(name), "{name}: {error}");
    }
    let error = Tokenizer::from_sentencepiece(&fixture("unigram.model")).unwrap_err();
    assert!(error.to_string().contains("type `unigram`"), "{error}");
    let bytes = fs::read(fixture("tokenizer.model")).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = Tokenizer::from_sentencepiece(&path).unwrap_err();
    assert!(
        error.to_string().contains("no SentencePiece model"),
        "{error}"
    );
}

/// llama.cpp's converter fills a vocabulary up to the embedding's rows.
#[test]
fn unused_padding_of_a_gguf_changes_nothing() {
    let mut metadata = gguf_metadata();
    let mut add = |key: &str, value: Value| {
        let Some(Value::Array(values)) = metadata.get_mut(key) else {
            panic!("{key}");
        };
        values.push(value);
    };
    add(
        "tokenizer.ggml.tokens",
        Value::String("[PAD607]".to_owned()),
    );
    add("tokenizer.ggml.scores", Value::F32(-1000.0));
    add("tokenizer.ggml.token_type", Value::I32(5));
    let padded = build(&metadata).unwrap();
    for text in ["[PAD607]", "def f(x):"] {
        assert_eq!(padded.encode(text).unwrap(), tiny().encode(text).unwrap());
    }
    metadata.insert(
        "tokenizer.ggml.scores".to_owned(),
        Value::Array(vec![Value::F32(0.0)]),
    );
    let error = build(&metadata).unwrap_err();
    assert!(error.to_string().contains("1 scores"), "{error}");
}

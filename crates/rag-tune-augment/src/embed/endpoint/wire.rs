//! What goes over the wire: OpenAI's embeddings API
//! (<https://platform.openai.com/docs/api-reference/embeddings>).

use std::sync::OnceLock;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::EndpointError;
use crate::embed::{Embeddings, beginning};

/// The body of a request.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    pub(super) model: &'a str,
    pub(super) input: &'a [&'a str],
    pub(super) encoding_format: &'static str,
}

/// The body of an answer; of its fields, those that are used here.
#[derive(Deserialize)]
pub(super) struct Response {
    data: Vec<Item>,
    #[serde(default)]
    usage: Option<TokenUsage>,
}

#[derive(Deserialize)]
struct Item {
    /// Of the text in the request. Some servers leave it out, and keep the order.
    #[serde(default)]
    index: Option<usize>,
    embedding: Vector,
}

#[derive(Deserialize, Default)]
struct TokenUsage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    total_tokens: Option<u64>,
}

/// A vector: numbers, or the base64 of little-endian f32. `null` becomes NaN, and is found as such.
struct Vector(Vec<f32>);

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = Vector;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("numbers, or base64 of f32")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vector, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = sequence.next_element::<Option<f32>>()? {
                    values.push(value.unwrap_or(f32::NAN));
                }
                Ok(Vector(values))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Vector, E> {
                let bytes = base64(text).filter(|bytes| bytes.len().is_multiple_of(4));
                let bytes = bytes.ok_or_else(|| E::custom("a vector is no base64 of f32"))?;
                let (values, _) = bytes.as_chunks();
                Ok(Vector(
                    values
                        .iter()
                        .map(|value| f32::from_le_bytes(*value))
                        .collect(),
                ))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

/// Vectors in the order of the texts, of length 1 each.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) vectors: Embeddings,
    pub(super) tokens: u64,
}

impl Response {
    /// Checks the answer to `texts`. `dimension` is that of all vectors of this endpoint; the first one
    /// sets it.
    pub(super) fn answer(
        self,
        endpoint: &str,
        texts: &[&str],
        dimension: &OnceLock<usize>,
    ) -> Result<Answer, EndpointError> {
        let endpoint = || endpoint.to_owned();
        let bad = |problem| EndpointError::BadResponse {
            endpoint: endpoint(),
            problem,
        };
        if self.data.len() != texts.len() {
            return Err(EndpointError::Count {
                endpoint: endpoint(),
                expected: texts.len(),
                found: self.data.len(),
            });
        }
        let mut in_order: Vec<Option<Vec<f32>>> = vec![None; texts.len()];
        for (position, item) in self.data.into_iter().enumerate() {
            let index = item.index.unwrap_or(position);
            match in_order.get_mut(index) {
                Some(slot @ None) => *slot = Some(item.embedding.0),
                Some(Some(_)) => return Err(bad(format!("it has `index` {index} twice"))),
                None => {
                    let texts = texts.len();
                    return Err(bad(format!("it has `index` {index}, of {texts} texts")));
                }
            }
        }
        let mut values = Vec::new();
        for (vector, text) in in_order.into_iter().flatten().zip(texts) {
            if vector.is_empty() {
                return Err(bad("a vector is empty".into()));
            }
            let expected = *dimension.get_or_init(|| vector.len());
            if vector.len() != expected {
                return Err(EndpointError::Dimension {
                    endpoint: endpoint(),
                    expected,
                    found: vector.len(),
                    text: beginning(text),
                });
            }
            let unit = normalised(&vector).map_err(|problem| EndpointError::BadVector {
                endpoint: endpoint(),
                problem,
                text: beginning(text),
            })?;
            values.extend(unit);
        }
        let usage = self.usage.unwrap_or_default();
        Ok(Answer {
            vectors: Embeddings::new(dimension.get().copied().unwrap_or(1), values),
            tokens: usage.total_tokens.or(usage.prompt_tokens).unwrap_or(0),
        })
    }
}

/// To length 1.
fn normalised(vector: &[f32]) -> Result<impl Iterator<Item = f32>, &'static str> {
    let squares = vector.iter().map(|&value| f64::from(value).powi(2));
    let length = squares.sum::<f64>().sqrt(); // in f64, where no f32 overflows
    if !length.is_finite() {
        return Err("that is not finite");
    }
    if length == 0.0 {
        return Err("of zeros");
    }
    let divided = move |&value| (f64::from(value) / length) as f32;
    Ok(vector.iter().map(divided))
}

/// What a server says about an error: the message in its JSON, or else the text's beginning.
pub(super) fn message(body: &[u8]) -> String {
    const SHOWN: usize = 300;
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let said = json.as_ref().and_then(|json| {
        let places = ["/error/message", "/message", "/detail", "/error"];
        places
            .iter()
            .find_map(|place| json.pointer(place)?.as_str())
    });
    let text = match said {
        Some(text) => text.into(),
        None => String::from_utf8_lossy(body),
    };
    let words: Vec<_> = text.split_whitespace().collect();
    let text = words.join(" ");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The bytes of a base64 text (RFC 4648, 4), with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0;
        for letter in group {
            let value = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let whole_bytes = group.len() * 6 / 8;
        if whole_bytes == 0 {
            return None;
        }
        bits <<= 32 - 6 * group.len();
        bytes.extend(&bits.to_be_bytes()[..whole_bytes]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(body: serde_json::Value, texts: &[&str]) -> Result<Answer, EndpointError> {
        let response: Response = serde_json::from_value(body).unwrap();
        response.answer("e", texts, &OnceLock::new())
    }

    /// RFC 4648, section 10.
    #[test]
    fn base64_of_the_rfc() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(base64(text).unwrap(), bytes.as_bytes(), "{text}");
        }
        assert_eq!(base64("Zm9vY"), None);
        assert_eq!(base64("Zm9_"), None);
    }

    /// The example of OpenAI's API reference in its shape; the numbers are 3-4-5 triangles.
    #[test]
    fn vectors_come_in_the_order_of_texts_and_of_length_1() {
        let body = json!({
            "object": "list",
            "data": [
                {"object": "embedding", "index": 1, "embedding": [0.0, -2.0]},
                {"object": "embedding", "index": 0, "embedding": [3.0, 4.0]},
            ],
            "model": "text-embedding-ada-002",
            "usage": {"prompt_tokens": 8, "total_tokens": 8}
        });
        let answer = answer(body, &["a", "b"]).unwrap();
        assert_eq!(answer.vectors.values(), [0.6, 0.8, 0.0, -1.0]);
        assert_eq!(answer.tokens, 8);
    }

    #[test]
    fn base64_vectors_are_little_endian_f32() {
        // struct.pack("<ff", 3, 4) in base64, and no index, no usage.
        let body = json!({"data": [{"embedding": "AABAQAAAgEA="}]});
        assert_eq!(answer(body, &["a"]).unwrap().vectors.values(), [0.6, 0.8]);
        let odd: Result<Response, _> =
            serde_json::from_value(json!({"data": [{"embedding": "AABAQAA="}]}));
        assert!(odd.err().unwrap().to_string().contains("no base64 of f32"));
    }

    #[test]
    fn vectors_too_large_to_square_in_f32_are_normalised_too() {
        let body = json!({"data": [{"embedding": [3e38, 0.0]}]});
        assert_eq!(answer(body, &["a"]).unwrap().vectors.values(), [1.0, 0.0]);
    }

    #[test]
    fn wrong_answers_are_named() {
        let item = |index: usize, vector: &[f32]| json!({"index": index, "embedding": vector});
        for (data, problem) in [
            (json!([item(0, &[1.])]), "gave 1 vectors for 2 texts"),
            (json!([item(0, &[1.]), item(0, &[1.])]), "`index` 0 twice"),
            (
                json!([item(0, &[1.]), item(2, &[1.])]),
                "`index` 2, of 2 texts",
            ),
            (
                json!([item(0, &[1.]), item(1, &[1., 0.])]),
                "gave a vector of 2 numbers for the text \"second\", and before of 1",
            ),
            (json!([item(0, &[]), item(1, &[])]), "a vector is empty"),
            (
                json!([item(0, &[1.]), item(1, &[0.])]),
                "gave a vector of zeros for the text \"second\"",
            ),
            (
                json!([item(0, &[1.]), {"index": 1, "embedding": [null]}]),
                "gave a vector that is not finite for the text \"second\"",
            ),
        ] {
            let error = answer(json!({"data": data}), &["first", "second"]).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
    }

    #[test]
    fn the_servers_message_is_found_and_cut() {
        let openai = br#"{"error": {"message": "Bad  model", "type": "x", "code": null}}"#;
        assert_eq!(message(openai), "Bad model");
        assert_eq!(message(br#"{"detail": "Too long"}"#), "Too long");
        assert_eq!(message(br#"{"error": "Too long"}"#), "Too long");
        assert_eq!(message(b"<html>\n502</html>"), "<html> 502</html>");
        assert_eq!(message(b"\xff"), "\u{fffd}");
        assert_eq!(message("x".repeat(1 << 16).as_bytes()).len(), 303);
    }
}

//! What OpenAI's embedding models cost.

/// US dollars per million tokens: OpenAI's list prices of the standard tier, as public price lists
/// (<https://embeddingcost.com/openai>, <https://platform.openai.com/docs/pricing>) gave them in May 2026.
/// Prices change: what counts is the bill.
const PRICES: [(&str, f64); 3] = [
    ("text-embedding-3-small", 0.02),
    ("text-embedding-3-large", 0.13),
    ("text-embedding-ada-002", 0.10),
];

/// The host that those prices are of. What another service bills for a model of that name is not known.
const HOST: &str = "api.openai.com";

/// Whether `model` is one of OpenAI's.
pub(super) fn is_openai_model(model: &str) -> bool {
    PRICES.iter().any(|(name, _)| *name == model)
}

/// `None` where the price is not known.
pub(super) fn dollars(host: &str, model: &str, tokens: u64) -> Option<f64> {
    let (_, per_million) = PRICES.iter().find(|(name, _)| *name == model)?;
    (host == HOST).then(|| tokens as f64 * per_million / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_known_for_openai_alone() {
        let ada = dollars(HOST, "text-embedding-ada-002", 2_500_000).unwrap();
        assert!((ada - 0.25).abs() < 1e-12, "{ada}");
        assert_eq!(dollars("127.0.0.1", "text-embedding-ada-002", 1), None);
        assert_eq!(dollars(HOST, "another", 1), None);
    }
}

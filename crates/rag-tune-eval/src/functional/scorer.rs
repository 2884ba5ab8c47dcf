//! Scores of meaning representations.

use super::compare::{character_accuracy, compare, is_same};
use super::parse::{Parsed, parse};
use crate::rows::{RowScore, RowStatus, Share};

/// The metrics, the main one first.
pub(crate) const METRICS: [&str; 7] = [
    "exact_order_free",
    "exact_line",
    "function",
    "attribute_precision",
    "attribute_recall",
    "attribute_f1",
    "character",
];

/// The score of a row.
pub(crate) fn score_row(index: usize, gold_text: &str, prediction: &str) -> RowScore {
    let (gold, predicted) = (parse(gold_text), parse(prediction));
    let status = status(&gold, &predicted);
    let is_gold_usable = status != RowStatus::GoldError;
    let detail = detail(&gold, &predicted, status);
    let has_function = is_gold_usable && gold.meaning.function == predicted.meaning.function;
    let pairs = compare(&gold.meaning, &predicted.meaning);
    // A gold meaning that breaks off would call right what lacks as much.
    let (common, wanted, given) = if is_gold_usable {
        (pairs.common, pairs.gold, pairs.predicted)
    } else {
        (0, 0, 0)
    };
    let character = character_accuracy(gold_text, prediction);
    RowScore::new(index, status, detail)
        .with("exact_order_free", Share::of(status == RowStatus::Correct))
        .with(
            "exact_line",
            Share::of(gold_text.trim() == prediction.trim()),
        )
        .with("function", Share::of(has_function))
        .with("attribute_precision", Share::count(common, given))
        .with("attribute_recall", Share::count(common, wanted))
        .with("attribute_f1", Share::count(2 * common, wanted + given))
        .with("character", Share::mean_of(character))
}

fn status(gold: &Parsed, predicted: &Parsed) -> RowStatus {
    if gold.malformed.is_some() {
        RowStatus::GoldError
    } else if predicted.malformed.is_some() {
        RowStatus::PredictionError
    } else if is_same(&gold.meaning, &predicted.meaning) {
        RowStatus::Correct
    } else {
        RowStatus::Wrong
    }
}

fn detail(gold: &Parsed, predicted: &Parsed, status: RowStatus) -> Option<String> {
    match status {
        RowStatus::Correct => None,
        RowStatus::GoldError => Some(format!("gold answer: {}", gold.malformed.as_ref()?)),
        RowStatus::PredictionError => Some(predicted.malformed.as_ref()?.to_string()),
        RowStatus::Wrong | RowStatus::Timeout => {
            let pairs = compare(&gold.meaning, &predicted.meaning);
            let (expected, found) = (&gold.meaning.function, &predicted.meaning.function);
            let mut faults = Vec::new();
            if expected != found {
                faults.push(format!("{found} instead of {expected}"));
            }
            for (what, pairs) in [("missing", pairs.missing), ("too much", pairs.extra)] {
                if !pairs.is_empty() {
                    faults.push(format!("{what}: {}", pairs.join(", ")));
                }
            }
            // The same pairs in other attributes: a[x], a[y] is not a[x, y].
            if faults.is_empty() {
                faults.push("the values are spread differently over attributes".to_owned());
            }
            Some(faults.join("; "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scorer, TextScorer};

    fn rows(gold: &str, predictions: &[&str]) -> Vec<RowScore> {
        let scorer = TextScorer::functional(vec![gold.to_owned(); predictions.len()]);
        let predictions: Vec<String> = predictions.iter().map(|text| (*text).to_owned()).collect();
        scorer.score(&predictions, &|| ()).unwrap()
    }

    #[test]
    fn a_row_says_what_was_wrong() {
        let gold = "inform(name[Tin Harbor], genres[puzzle, sport])";
        let predictions = [
            "inform(genres[sport, puzzle], name[Tin Harbor])",
            "confirm(name[Tin Harbor], genres[puzzle], esrb[])",
            "inform(name[Tin Harbor], genres[puzzle], genres[sport])",
            "inform(name[Tin Harbor], genres[puzzle, spo",
        ];
        let rows = rows(gold, &predictions);
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.status, row.detail.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(
            seen,
            [
                (RowStatus::Correct, ""),
                (
                    RowStatus::Wrong,
                    "confirm instead of inform; missing: genres[sport]; too much: esrb[]"
                ),
                (
                    RowStatus::Wrong,
                    "the values are spread differently over attributes"
                ),
                (
                    RowStatus::PredictionError,
                    "position 44: expected `]`, found the end"
                ),
            ]
        );
        let of = |metric: &str| {
            rows.iter()
                .map(|row| row.metrics[metric])
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("exact_order_free"),
            [true, false, false, false].map(Share::of)
        );
        assert_eq!(of("exact_line"), [false; 4].map(Share::of));
        assert_eq!(of("function"), [true, false, true, true].map(Share::of));
        assert_eq!(
            of("attribute_precision"),
            [(3, 3), (2, 3), (3, 3), (1, 1)].map(|(a, b)| Share::count(a, b))
        );
        assert_eq!(
            of("attribute_recall"),
            [3, 2, 3, 1].map(|common| Share::count(common, 3))
        );
        assert_eq!(
            of("attribute_f1"),
            [(6, 6), (4, 6), (6, 6), (2, 4)].map(|(a, b)| Share::count(a, b))
        );
    }

    #[test]
    fn a_prediction_without_a_function_adds_nothing_but_what_it_lacks() {
        let row = &rows("request(specifier[odd])", &["I cannot say."])[0];
        assert_eq!(row.status, RowStatus::PredictionError);
        assert_eq!(row.metrics["function"], Share::of(false));
        assert_eq!(row.metrics["attribute_precision"], Share::count(0, 0));
        assert_eq!(row.metrics["attribute_recall"], Share::count(0, 1));
    }

    #[test]
    fn a_malformed_gold_answer_makes_nothing_right() {
        let row = &rows("inform(name[a]", &["inform(name[a]"])[0];
        assert_eq!(row.status, RowStatus::GoldError);
        assert_eq!(
            row.detail.as_deref(),
            Some("gold answer: position 15: expected `,` or `)`, found the end")
        );
        assert_eq!(row.metrics["exact_order_free"], Share::of(false));
        assert_eq!(row.metrics["attribute_f1"], Share::count(0, 0));
    }
}

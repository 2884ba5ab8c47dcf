//! Scores of worked answers.

use super::answer::{self, Number};
use super::calculator;
use crate::rows::{RowScore, RowStatus, Share};

/// The metrics, the main one first.
pub(crate) const METRICS: [&str; 4] = ["strict", "flexible", "calculator", "lm_eval_strict"];

/// The score of a row.
pub(crate) fn score_row(index: usize, gold: &str, prediction: &str) -> RowScore {
    let gold = answer::gold(gold);
    let expected = answer::first(gold);
    let strict = answer::strict(prediction);
    let found = answer::flexible(prediction);
    let is_strict = expected.is_some() && strict == expected;
    let as_text = answer::lm_eval_strict(prediction);
    let is_lm_eval_strict = expected.is_some()
        && as_text.is_some_and(|text| answer::normalised(text) == answer::normalised(gold));
    let is_flexible = expected.is_some() && found == expected;
    let status = match (&expected, &found) {
        (None, _) => RowStatus::GoldError,
        (Some(_), _) if is_strict => RowStatus::Correct,
        (Some(_), Some(_)) => RowStatus::Wrong,
        (Some(_), None) => RowStatus::PredictionError,
    };
    let calculations = calculator::check(prediction);
    let mut faults = Vec::new();
    faults.extend(match status {
        RowStatus::Correct => None,
        _ => Some(fault(expected.as_ref(), strict.as_ref(), found.as_ref())),
    });
    faults.extend(calculations.first_wrong);
    let detail = (!faults.is_empty()).then(|| faults.join("; "));
    RowScore::new(index, status, detail)
        .with("strict", Share::of(is_strict))
        .with("flexible", Share::of(is_flexible))
        .with(
            "calculator",
            Share::count(calculations.right, calculations.all),
        )
        .with("lm_eval_strict", Share::of(is_lm_eval_strict))
}

/// Why the answer is not right by the strict form.
fn fault(expected: Option<&Number>, strict: Option<&Number>, found: Option<&Number>) -> String {
    match (expected, strict, found) {
        (None, _, _) => "the gold answer has no number".to_owned(),
        (Some(_), None, None) => "no number".to_owned(),
        (Some(expected), Some(strict), _) => format!("got {strict}, expected {expected}"),
        (Some(expected), None, Some(found)) => {
            format!("no line \"#### number\"; the last number is {found}, expected {expected}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scorer, TextScorer};

    fn rows(gold: &str, predictions: &[&str]) -> Vec<RowScore> {
        let scorer = TextScorer::gsm8k(vec![gold.to_owned(); predictions.len()]);
        let predictions: Vec<String> = predictions.iter().map(|text| (*text).to_owned()).collect();
        scorer.score(&predictions, &|| ()).unwrap()
    }

    #[test]
    fn a_row_says_what_was_wrong() {
        let gold = "48+24 = <<48+24=72>>72 clips\n#### 72";
        let predictions = [
            gold,
            "<<48+24=73>>73\n#### 72",
            "<<48+24=72>>72\n#### 70",
            "The answer is 72.",
            "<<48+24=73>> is 70",
            "I do not know.",
            "#### 72.00",
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
                (RowStatus::Correct, "<<48+24=73>> is 72"),
                (RowStatus::Wrong, "got 70, expected 72"),
                (
                    RowStatus::Wrong,
                    "no line \"#### number\"; the last number is 72, expected 72"
                ),
                (
                    RowStatus::Wrong,
                    "no line \"#### number\"; the last number is 70, expected 72; <<48+24=73>> is 72"
                ),
                (RowStatus::PredictionError, "no number"),
                (RowStatus::Correct, ""),
            ]
        );
        let of = |metric: &str| {
            rows.iter()
                .map(|row| row.metrics[metric])
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("strict"),
            [true, true, false, false, false, false, true].map(Share::of)
        );
        assert_eq!(
            of("lm_eval_strict"),
            [true, true, false, false, false, false, false].map(Share::of)
        );
        assert_eq!(
            of("flexible"),
            [true, true, false, true, false, false, true].map(Share::of)
        );
        let counts = [(1, 1), (0, 1), (1, 1), (0, 0), (0, 1), (0, 0), (0, 0)];
        assert_eq!(
            of("calculator"),
            counts.map(|(right, all)| Share::count(right, all))
        );
    }

    #[test]
    fn a_gold_answer_may_be_a_bare_number_and_must_have_one() {
        let row = &rows("1,200", &["#### 1200"])[0];
        assert_eq!(row.status, RowStatus::Correct);
        let row = &rows("none", &["#### 1200"])[0];
        assert_eq!(row.status, RowStatus::GoldError);
        assert_eq!(row.detail.as_deref(), Some("the gold answer has no number"));
    }

    #[test]
    fn the_first_answer_counts_when_there_are_several() {
        let statuses = rows("#### 72", &["#### 72\n#### 9", "#### 9\n#### 72"]);
        let correct: Vec<bool> = statuses.iter().map(|row| row.correct).collect();
        assert_eq!(correct, [true, false]);
    }
}

//! What can be said of the differences between evaluations on the same rows.

use std::path::PathBuf;

use rag_tune_eval::statistics::{Difference, Outcomes, SIGNIFICANCE, Test, holm};

use crate::evaluated::{Evaluated, Side, below, check_same_rows};

/// Two sides of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Contrast {
    /// Index of the first side.
    pub first: usize,
    /// Index of the second side.
    pub second: usize,
    /// The second against the first.
    pub difference: Difference,
    /// Its probability, adjusted for the number of pairs by Holm's method; the same where there is one pair.
    pub adjusted_p_value: f64,
}

impl Contrast {
    /// Every pair of `sides`, which are of the same rows.
    pub fn all(sides: &[Side]) -> Vec<Self> {
        let pairs: Vec<(usize, usize)> = (0..sides.len())
            .flat_map(|first| (first + 1..sides.len()).map(move |second| (first, second)))
            .collect();
        let outcomes: Vec<&Outcomes> = sides.iter().map(|side| &side.outcomes).collect();
        Self::of(&outcomes, &pairs)
    }

    /// These pairs (indices) of `outcomes`; both sides of a pair are of the same rows.
    pub fn of(outcomes: &[&Outcomes], pairs: &[(usize, usize)]) -> Vec<Self> {
        let differences: Vec<Difference> = pairs
            .iter()
            .map(|&(first, second)| Difference::between(outcomes[first], outcomes[second]))
            .collect();
        let p_values: Vec<f64> = differences
            .iter()
            .map(|difference| difference.p_value)
            .collect();
        let adjusted = holm(&p_values);
        pairs
            .iter()
            .zip(differences)
            .zip(adjusted)
            .map(|((&(first, second), difference), adjusted_p_value)| Self {
                first,
                second,
                difference,
                adjusted_p_value,
            })
            .collect()
    }

    /// Whether the sides cannot be told apart.
    pub fn is_within_noise(&self) -> bool {
        self.adjusted_p_value >= SIGNIFICANCE
    }

    /// What follows, in a sentence that names the sides.
    pub fn verdict(&self, first: &str, second: &str) -> String {
        let p = p_value(self.adjusted_p_value);
        if self.is_within_noise() {
            let ci95 = self.difference.ci95;
            let reach = 100.0 * (ci95.hi - ci95.lo) / 2.0;
            return format!(
                "within noise ({p}): these rows cannot tell a difference of less than about {reach:.1} points from none"
            );
        }
        let points = 100.0 * self.difference.difference;
        let (better, by) = if points > 0.0 {
            (second, points)
        } else {
            (first, -points)
        };
        format!("{better} is better by {by:.1} points ({p})")
    }

    /// How the probability was found, with its adjustment.
    pub fn test(&self, contrasts: usize) -> String {
        let test = match self.difference.test {
            Test::McNemar => "McNemar's exact test",
            Test::Bootstrap => "bootstrap over rows and seeds",
        };
        match contrasts {
            1 => test.to_owned(),
            n => format!("{test}, adjusted for {n} pairs by Holm's method"),
        }
    }
}

/// A probability as it is written: `p = 0.031`.
pub fn p_value(p: f64) -> String {
    match p {
        p if p < 0.001 => "p < 0.001".to_owned(),
        p if p < 0.1 => format!("p = {p:.3}"),
        p => format!("p = {p:.2}"),
    }
}

/// For a chart of `runs`: which of its bars cannot be told apart, in a line for each set of rows. Evaluations without
/// their answers are passed over.
///
/// # Errors
/// When a file that is there cannot be read.
pub fn noise_notes(runs: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut groups: Vec<Vec<Side>> = Vec::new();
    for run in runs {
        let folders = below(run).unwrap_or_else(|_| vec![run.clone()]);
        for folder in folders
            .iter()
            .filter(|folder| folder.join("predictions.jsonl").is_file())
        {
            let side = Side::new(vec![Evaluated::from_folder(folder)?])?;
            let same_rows =
                |group: &&mut Vec<Side>| check_same_rows(group[0].first(), side.first()).is_ok();
            match groups.iter_mut().find(same_rows) {
                Some(group) => group.push(side),
                None => groups.push(vec![side]),
            }
        }
    }
    let notes = groups.iter().filter_map(|sides| {
        let contrasts = Contrast::all(sides);
        let alike: Vec<String> = contrasts
            .iter()
            .filter(|contrast| contrast.is_within_noise())
            .map(|contrast| {
                let [first, second] = [contrast.first, contrast.second].map(|i| &sides[i].label);
                format!(
                    "{first} and {second} ({})",
                    p_value(contrast.adjusted_p_value)
                )
            })
            .collect();
        let test = contrasts.first()?.test(contrasts.len());
        (!alike.is_empty()).then(|| format!("Within noise: {}. By {test}.", alike.join("; ")))
    });
    Ok(notes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_probabilities_are_not_written_as_zero() {
        assert_eq!(
            [0.0, 0.0312, 0.5].map(p_value),
            ["p < 0.001", "p = 0.031", "p = 0.50"]
        );
    }
}

//! Made-up word problems: a few sentences with numbers in them, and their solution in steps.
//!
//! [`TEMPLATES`] say what is calculated; [`problems`] draws names, things and numbers for them, and keeps the draws in
//! which every step gives a whole number above zero.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::pools::FIRST_NAMES;
use super::problem_templates::{TEMPLATES, Template};
use super::rng::Rng;
use super::wording::sentence;

/// A row of the data set, in the columns of GSM8K.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The template's name; not part of the data set.
    #[serde(skip)]
    pub kind: &'static str,
    /// The problem.
    pub question: String,
    /// The worked steps, a line each, with `<<6*4=24>>` beside every calculation; then `#### ` and the result.
    pub answer: String,
}

/// Draws that may fail in a row before the templates count as worked out.
const DRAWS: usize = 1000;

/// `count` different problems, the templates in turn.
///
/// # Errors
/// If the templates do not have so many.
pub fn problems(seed: u64, count: usize) -> Result<Vec<Problem>> {
    let mut rng = Rng::named(seed, "word problems");
    let mut seen = HashSet::new();
    let mut problems = Vec::with_capacity(count);
    for template in TEMPLATES.iter().cycle().take(count) {
        let new = (0..DRAWS)
            .filter_map(|_| draw(template, &mut rng))
            .find(|problem| seen.insert(problem.question.clone()));
        problems.extend(new);
    }
    let found = problems.len();
    ensure!(found == count, "only {found} of {count} word problems");
    Ok(problems)
}

/// A problem, or nothing where a step does not come out whole and above zero.
fn draw(template: &Template, rng: &mut Rng) -> Option<Problem> {
    let names = rng.sample(&FIRST_NAMES, 2);
    let mut gaps = vec![
        ("name", names[0].to_owned()),
        ("other", names[1].to_owned()),
        ("thing", (*rng.pick(template.things)?).to_owned()),
    ];
    let mut values: Vec<(&str, usize)> = Vec::new();
    for &(name, low, high) in template.numbers {
        let number = rng.between(low, high);
        values.push((name, number));
        gaps.push((name, number.to_string()));
    }
    let question = filled(rng.pick(template.questions)?, &gaps);
    let mut lines = Vec::new();
    let mut result = 0;
    for step in template.steps {
        let calculation: Vec<String> = step
            .calculation
            .split(' ')
            .map(|part| spelled(part, &values))
            .collect();
        result = value_of(&calculation)?;
        let annotation = format!("<<{}={result}>>{result}", calculation.concat());
        let spaced = calculation.join(" ");
        gaps.push(("calc", format!("{spaced} = {annotation}")));
        gaps.push(("$calc", format!("{spaced} = ${annotation}")));
        lines.push(filled(step.line, &gaps));
        gaps.truncate(gaps.len() - 2);
        values.push((step.result, result));
        gaps.push((step.result, result.to_string()));
    }
    lines.push(format!("#### {result}"));
    Some(Problem {
        kind: template.name,
        question,
        answer: lines.join("\n"),
    })
}

fn filled(text: &str, gaps: &[(&str, String)]) -> String {
    let gaps: Vec<(&str, &str)> = gaps
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    sentence(text, &gaps)
}

/// A part of a calculation with its number in the place of its name.
fn spelled(part: &str, values: &[(&str, usize)]) -> String {
    let value = values.iter().find(|(name, _)| *name == part);
    value.map_or_else(|| part.to_owned(), |(_, value)| value.to_string())
}

/// The value of numbers with operators between them, from left to right; nothing if it is not whole or not above zero.
fn value_of(calculation: &[String]) -> Option<usize> {
    let mut value: usize = calculation.first()?.parse().ok()?;
    for pair in calculation[1..].chunks(2) {
        let number: usize = pair.get(1)?.parse().ok()?;
        value = match pair[0].as_str() {
            "+" => value + number,
            "-" => value.checked_sub(number)?,
            "*" => value * number,
            "/" => value.is_multiple_of(number).then(|| value / number)?,
            _ => return None,
        };
    }
    (value > 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_differ_and_every_template_has_its_share() {
        let problems = problems(42, 1000).unwrap();
        let questions: HashSet<&str> = problems.iter().map(|row| row.question.as_str()).collect();
        assert_eq!(questions.len(), 1000);
        for template in TEMPLATES {
            let share = problems
                .iter()
                .filter(|row| row.kind == template.name)
                .count();
            assert!(
                share >= 1000 / TEMPLATES.len(),
                "{}: {share}",
                template.name
            );
        }
    }

    #[test]
    fn no_gap_stays_open_and_no_step_is_without_its_calculation() {
        for problem in problems(3, 300).unwrap() {
            let text = format!("{}\n{}", problem.question, problem.answer);
            assert!(!text.contains(['{', '}']) && !text.contains("  "), "{text}");
            let steps: Vec<&str> = problem.answer.lines().collect();
            assert!((3..=5).contains(&steps.len()), "{text}");
            let (result, steps) = steps.split_last().unwrap();
            assert!(steps.iter().all(|step| step.contains("<<")), "{text}");
            assert!(result.starts_with("#### "), "{text}");
        }
    }

    #[test]
    fn a_calculation_goes_from_left_to_right_and_stays_whole() {
        let value = |text: &str| value_of(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(value("40 * 25 / 100"), Some(10));
        assert_eq!(value("7 / 2"), None);
        assert_eq!(value("3 - 3"), None);
        assert_eq!(value("3 - 4"), None);
    }
}

//! The number that an answer gives.
//!
//! The strict answer is the number behind `#### `, the flexible one the last number. Both are read as numbers: what a
//! value is written like plays no part. lm-evaluation-harness (`lm_eval/tasks/gsm8k/gsm8k.yaml`) compares texts instead;
//! its filter `strict-match` is here too, so that figures can be compared with published ones. docs/evaluation.md lists
//! what differs.

use std::fmt;

use super::rational::Rational;

/// What stands before the result.
const MARK: &str = "#### ";

/// Signs that may stand between a minus and its number.
const CURRENCIES: [char; 4] = ['$', '€', '£', '¥'];

/// Both ways to write a minus.
const MINUSES: [char; 2] = ['-', '\u{2212}'];

/// The number behind the first `#### ` that one follows at once, but for a minus and a currency sign.
pub(super) fn strict(text: &str) -> Option<Number> {
    text.match_indices(MARK).find_map(|(at, _)| {
        let rest = &text[at + MARK.len()..];
        let signs = |c: char| MINUSES.contains(&c) || CURRENCIES.contains(&c);
        let start = rest.len() - rest.trim_start_matches(signs).len();
        let is_number = unsigned_length(&rest.as_bytes()[start..]) > 0;
        is_number.then(|| number_at(rest, start).0)
    })
}

/// What lm-eval compares: the text behind the first `#### ` that digits follow at once, `#### (\-?[0-9\.\,]+)`.
pub(super) fn lm_eval_strict(text: &str) -> Option<&str> {
    text.match_indices(MARK).find_map(|(at, _)| {
        let rest = &text[at + MARK.len()..];
        let digits = rest.strip_prefix('-').unwrap_or(rest);
        let end = digits
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ','))
            .unwrap_or(digits.len());
        (end > 0).then(|| &rest[..rest.len() - digits.len() + end])
    })
}

/// The text behind the last `#### ` of a gold answer, or all of it.
pub(super) fn gold(text: &str) -> &str {
    text.rfind(MARK)
        .map_or(text, |at| &text[at + MARK.len()..])
        .trim_end()
}

/// A text as lm-eval compares it: without commas, dollar signs, and the point at its end.
pub(super) fn normalised(text: &str) -> String {
    let text: String = text.chars().filter(|c| !matches!(c, ',' | '$')).collect();
    text.strip_suffix('.').unwrap_or(&text).to_lowercase()
}

/// A number that stands in a text.
#[derive(Debug, Clone)]
pub(super) enum Number {
    /// Sign, digits without needless zeros, and point: equal numbers are equal texts, however long.
    Decimal(String),
    /// Two numbers with a slash between them.
    Fraction(Rational),
}

impl Number {
    /// A number without sign, as digits with at most one point.
    fn new(is_negative: bool, digits: &str) -> Self {
        let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
        let (whole, places) = (whole.trim_start_matches('0'), places.trim_end_matches('0'));
        let whole = if whole.is_empty() { "0" } else { whole };
        let point = if places.is_empty() { "" } else { "." };
        let is_zero = whole == "0" && places.is_empty();
        let sign = if is_negative && !is_zero { "-" } else { "" };
        Self::Decimal(format!("{sign}{whole}{point}{places}"))
    }

    /// Nothing where the number is too long for a fraction.
    fn rational(&self) -> Option<Rational> {
        match self {
            Self::Fraction(value) => Some(*value),
            Self::Decimal(text) => match text.strip_prefix('-') {
                Some(digits) => Rational::from_decimal(digits)?.negated(),
                None => Rational::from_decimal(text),
            },
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Decimal(left), Self::Decimal(right)) => left == right,
            _ => self
                .rational()
                .is_some_and(|value| other.rational() == Some(value)),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal(text) => f.write_str(text),
            Self::Fraction(value) => value.fmt(f),
        }
    }
}

/// The last number of a text.
pub(super) fn flexible(text: &str) -> Option<Number> {
    numbers(text).last()
}

/// The first number of a text.
pub(super) fn first(text: &str) -> Option<Number> {
    numbers(text).next()
}

fn numbers(text: &str) -> impl Iterator<Item = Number> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start =
            at + (at..text.len()).position(|i| unsigned_length(&text.as_bytes()[i..]) > 0)?;
        let (number, length) = number_at(text, start);
        at = start + length;
        Some(number)
    })
}

/// The number whose digits begin at `start`, and how many bytes they take.
fn number_at(text: &str, start: usize) -> (Number, usize) {
    let bytes = text.as_bytes();
    let is_negative = has_minus(&text[..start]);
    let length = unsigned_length(&bytes[start..]);
    let digits = text[start..start + length].replace(',', "");
    let whole = Number::new(is_negative, &digits);
    let behind = &bytes[start + length..];
    // 5/6/2020 is a date and no fraction.
    let is_tail = text[..start].ends_with('/');
    if let [b'/', below @ ..] = behind
        && !is_tail
    {
        let below_length = unsigned_length(below);
        let below_end = start + length + 1 + below_length;
        let below = text[start + length + 1..below_end].replace(',', "");
        let is_date = bytes.get(below_end) == Some(&b'/');
        if !is_date
            && let Some(above) = whole.rational()
            && let Some(value) = Rational::from_decimal(&below).and_then(|below| above.over(below))
        {
            return (Number::Fraction(value), below_end - start);
        }
    }
    (whole, length)
}

/// Bytes of the digits at the start of `bytes`, with commas before groups of three and a point before further digits.
fn unsigned_length(bytes: &[u8]) -> usize {
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let mut length = digits(0);
    if (1..=3).contains(&length) {
        while bytes.get(length) == Some(&b',') && digits(length + 1) == 3 {
            length += 4;
        }
    }
    if bytes.get(length) == Some(&b'.') && digits(length + 1) > 0 {
        length += 1 + digits(length + 1);
    }
    length
}

/// Whether the number behind `before` is negative: a minus stands at it, or with only a currency sign between, and does
/// not take it away from something.
fn has_minus(before: &str) -> bool {
    let before = before.trim_end_matches(CURRENCIES);
    let Some(before) = before.strip_suffix(MINUSES) else {
        return false;
    };
    let last = before.chars().next_back();
    !last.is_some_and(|c| c.is_alphanumeric() || matches!(c, ')' | ']' | '%'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn last(text: &str) -> String {
        flexible(text).map_or_else(|| "-".to_owned(), |number| number.to_string())
    }

    #[test]
    fn the_strict_answer_is_the_number_behind_the_first_mark_that_has_one() {
        for (text, expected) in [
            ("a\n#### 72\n#### 70", "72"),
            ("#### ?\n#### -1,200.5 cm", "-1200.5"),
            ("#### $72", "72"),
            ("#### -$1,200.00.", "-1200"),
            ("#### \u{2212}72", "-72"),
            ("#### 20%", "20"),
            ("#### 3/4", "0.75"),
            ("#### 72...", "72"),
        ] {
            let number = strict(text).map(|number| number.to_string());
            assert_eq!(number.as_deref(), Some(expected), "{text}");
        }
        for text in ["####72", "####  72", "#### x 72", "### 72", "#### -", "72"] {
            assert_eq!(strict(text), None, "{text}");
        }
    }

    #[test]
    fn lm_eval_compares_the_text_behind_the_mark() {
        assert_eq!(lm_eval_strict("a\n#### 72\n#### 70"), Some("72"));
        assert_eq!(lm_eval_strict("#### ?\n#### -1,200.5 cm"), Some("-1,200.5"));
        for text in ["####72", "#### $72", "#### \u{2212}72", "#### -"] {
            assert_eq!(lm_eval_strict(text), None, "{text}");
        }
        assert_eq!(normalised("1,200."), "1200");
        assert_ne!(normalised("72.00"), normalised("72"));
    }

    #[test]
    fn the_flexible_answer_is_the_last_number() {
        for (text, expected) in [
            ("It is 5, then 72 apples.", "72"),
            ("so 1,200,000.50 in all", "1200000.5"),
            ("costs $18.00.", "18"),
            ("a list: 10,20,30", "30"),
            ("5 - 3", "3"),
            ("5-3", "3"),
            ("(x)-3", "3"),
            ("x = -3", "-3"),
            ("a loss of -$4", "-4"),
            ("a loss of $-4", "-4"),
            ("a loss of \u{2212}4", "-4"),
            ("that is 20%", "20"),
            ("about 3/4", "0.75"),
            ("-9/3", "-3"),
            ("on 5/6/2020", "2020"),
            ("5/0", "0"),
            (".5", "0.5"),
            ("-0.0", "0"),
            ("007", "7"),
            ("18...", "18"),
            ("1.2.3", "0.3"),
            ("no number...", "-"),
            ("", "-"),
        ] {
            assert_eq!(last(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_of_any_length_are_compared_exactly() {
        let (long, other) = ("9".repeat(60), format!("{}8", "9".repeat(59)));
        assert_eq!(flexible(&long), flexible(&format!("{long}.0")));
        assert_ne!(flexible(&long), flexible(&other));
        assert_eq!(flexible("2/4"), flexible("0.50"));
        assert_ne!(flexible(&format!("{long}/2")), flexible("1/2"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*", odd in "[-0-9.,/$%#\u{2212} ]*") {
            for text in [text, odd] {
                strict(&text);
                lm_eval_strict(&text);
                normalised(gold(&text));
                flexible(&text);
            }
        }

        #[test]
        fn a_whole_number_is_found_with_and_without_commas(number: i64) {
            let digits = number.unsigned_abs().to_string();
            let commas = digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap());
            let commas = commas.collect::<Vec<_>>().join(",");
            let sign = if number < 0 { "-" } else { "" };
            prop_assert_eq!(last(&format!("4 and {number}.")), number.to_string());
            prop_assert_eq!(last(&format!("4 and {sign}${commas}.00 dollars")), number.to_string());
            let marked = format!("#### {sign}{commas}");
            prop_assert_eq!(strict(&marked).unwrap().to_string(), number.to_string());
            prop_assert_eq!(normalised(lm_eval_strict(&marked).unwrap()), number.to_string());
        }
    }
}

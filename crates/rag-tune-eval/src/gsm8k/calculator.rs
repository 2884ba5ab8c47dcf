//! The calculations between double angle brackets: `<<48+24=72>>`.
//!
//! A calculation is right when both sides of its `=` have the same value, computed exactly. A result with at least two
//! decimal places may also be rounded to these: `<<10/3=3.33>>` is right, `<<10/3=3.3>>` is not.

use super::rational::Rational;

/// Decimal places from which a result may be rounded.
const ROUNDED_PLACES: usize = 2;
/// Longer calculations are not computed: no person writes them, and time grows with the square of the length.
const MAX_BYTES: usize = 1000;
/// Parentheses within parentheses that are followed.
const MAX_DEPTH: usize = 50;

/// The calculations of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Calculations {
    /// How many there are.
    pub(super) all: usize,
    /// How many are right.
    pub(super) right: usize,
    /// What is wrong with the first wrong one.
    pub(super) first_wrong: Option<String>,
}

/// Checks every calculation in `text`. One without its `>>` in the same line counts, and is not right.
pub(super) fn check(text: &str) -> Calculations {
    let mut calculations = Calculations::default();
    for line in text.lines() {
        let mut rest = line;
        while let Some((_, behind)) = rest.split_once("<<") {
            let (inside, after) = behind.split_once(">>").unwrap_or((behind, ""));
            let is_closed = behind.len() > inside.len();
            rest = after;
            calculations.all += 1;
            let wrong = if is_closed {
                fault(inside).map(|fault| format!("<<{}>> {fault}", shortened(inside)))
            } else {
                Some(format!("<<{} has no `>>`", shortened(inside)))
            };
            match wrong {
                None => calculations.right += 1,
                Some(wrong) => {
                    calculations.first_wrong.get_or_insert(wrong);
                }
            }
        }
    }
    calculations
}

/// Enough of a calculation to find it.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// What is wrong with `48+24=73`, if anything: "is 72".
fn fault(calculation: &str) -> Option<String> {
    if calculation.len() > MAX_BYTES {
        return Some("is too long to check".to_owned());
    }
    let Some((left, result)) = calculation.rsplit_once('=') else {
        return Some("has no `=`".to_owned());
    };
    let places = match result.trim().trim_end_matches('%').rsplit_once('.') {
        Some((_, places)) => places.bytes().take_while(u8::is_ascii_digit).count(),
        None => 0,
    };
    let written = match value(result) {
        Ok(written) => written,
        Err(fault) => return Some(fault),
    };
    for side in left.split('=') {
        match value(side) {
            Ok(value) if value == written => {}
            Ok(value) if places >= ROUNDED_PLACES && value.rounds_to(written, places) => {}
            Ok(value) => return Some(format!("is {value}")),
            Err(fault) => return Some(fault),
        }
    }
    None
}

/// The value of an expression of decimal numbers, `+ - * /`, `//` (without remainder), parentheses and percent signs. Commas in and currency signs
/// at numbers are passed over.
fn value(text: &str) -> Result<Rational, String> {
    let mut parser = Parser {
        rest: text,
        depth: 0,
    };
    let value = parser.sum()?;
    match parser.peek() {
        None => Ok(value),
        Some(found) => Err(format!("has a `{found}` where it should end")),
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    /// The next character that says something.
    fn peek(&mut self) -> Option<char> {
        self.rest = self
            .rest
            .trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '$' | '€' | '£' | '¥'));
        self.rest.chars().next()
    }

    fn take(&mut self, wanted: &[char]) -> Option<char> {
        let found = self.peek().filter(|found| wanted.contains(found))?;
        self.rest = &self.rest[found.len_utf8()..];
        Some(found)
    }

    fn sum(&mut self) -> Result<Rational, String> {
        let mut sum = self.product()?;
        while let Some(sign) = self.take(&['+', '-', '\u{2212}']) {
            let number = self.product()?;
            let result = if sign == '+' {
                sum.plus(number)
            } else {
                sum.minus(number)
            };
            sum = result.ok_or_else(too_large)?;
        }
        Ok(sum)
    }

    fn product(&mut self) -> Result<Rational, String> {
        let mut product = self.factor()?;
        while let Some(sign) = self.take(&['*', '\u{d7}', '/', '\u{f7}']) {
            let is_whole = sign == '/' && self.take(&['/']).is_some();
            let number = self.factor()?;
            let result = if matches!(sign, '*' | '\u{d7}') {
                product.times(number)
            } else if Some(number) == Rational::new(0, 1) {
                return Err("divides by zero".to_owned());
            } else {
                let quotient = product.over(number);
                quotient.map(|value| if is_whole { value.floor() } else { value })
            };
            product = result.ok_or_else(too_large)?;
        }
        Ok(product)
    }

    /// A number or an expression in parentheses, with signs before and percent signs behind it.
    fn factor(&mut self) -> Result<Rational, String> {
        let mut is_negative = false;
        while let Some(sign) = self.take(&['+', '-', '\u{2212}']) {
            is_negative ^= sign != '+';
        }
        let mut value = if self.take(&['(']).is_some() {
            self.in_parentheses()?
        } else {
            self.number()?
        };
        while self.take(&['%']).is_some() {
            let percent = Rational::new(1, 100).and_then(|percent| value.times(percent));
            value = percent.ok_or_else(too_large)?;
        }
        if is_negative {
            value = value.negated().ok_or_else(too_large)?;
        }
        Ok(value)
    }

    fn in_parentheses(&mut self) -> Result<Rational, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!(
                "has more than {MAX_DEPTH} parentheses in one another"
            ));
        }
        let value = self.sum()?;
        self.depth -= 1;
        self.take(&[')']).ok_or("has no `)` for its `(`")?;
        Ok(value)
    }

    fn number(&mut self) -> Result<Rational, String> {
        let found = self.peek();
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ','))
            .unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        if digits.is_empty() {
            return Err(match found {
                Some(found) => format!("has a `{found}` where a number should be"),
                None => "lacks a number at its end".to_owned(),
            });
        }
        self.rest = rest;
        let is_number =
            digits.matches('.').count() <= 1 && digits.bytes().any(|byte| byte.is_ascii_digit());
        if !is_number {
            return Err(format!("has `{}`, which is no number", shortened(digits)));
        }
        Rational::from_decimal(&digits.replace(',', "")).ok_or_else(too_large)
    }
}

fn too_large() -> String {
    "has numbers that are too long to check".to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault_of(calculation: &str) -> String {
        fault(calculation).unwrap_or_else(|| "-".to_owned())
    }

    #[test]
    fn right_calculations_have_no_fault() {
        for calculation in [
            "48+24=72",
            "2+3*4=14",
            "(2+3)*4=20",
            "100-10-5=85",
            "100/10/5=2",
            "150*.01*12=18",
            "3*15=45.00",
            "3=3",
            "3/4=3/4",
            "80,000*2=160,000",
            "$5*3=$15",
            "20%*50=10",
            "1/4=25%",
            "5-8=-3",
            "-(2-5)=3",
            "2--3=5",
            "3 \u{d7} 4 \u{f7} 2 \u{2212} 1 = 5",
            "1+1=2*1=2",
            "10/3=3.33",
            "2/3=0.667",
            "1/3*3=1",
            ".1+.2=.3",
            "560//10=56",
            "-7//2=-4",
        ] {
            assert_eq!(fault_of(calculation), "-", "{calculation}");
        }
    }

    #[test]
    fn wrong_calculations_say_what_is_wrong() {
        let nested = format!("{}1{}=1", "(".repeat(51), ")".repeat(51));
        for (calculation, expected) in [
            ("48+24=73", "is 72"),
            ("10/4=2.6", "is 2.5"),
            ("10/3=3.3", "is about 3.3333"),
            ("10/3=3", "is about 3.3333"),
            ("1+1=3=2", "is 3"),
            ("5/0=0", "divides by zero"),
            ("48+24", "has no `=`"),
            ("=5", "lacks a number at its end"),
            ("4+=4", "lacks a number at its end"),
            ("2 apples=2", "has a `a` where it should end"),
            ("2**3=8", "has a `*` where a number should be"),
            ("x=2", "has a `x` where a number should be"),
            ("(1+2=3", "has no `)` for its `(`"),
            ("1.2.3=1", "has `1.2.3`, which is no number"),
            (
                "99999999999999999999*99999999999999999999=1",
                "has numbers that are too long to check",
            ),
            (&nested, "has more than 50 parentheses in one another"),
            (&format!("{}=1", "1*".repeat(999)), "is too long to check"),
        ] {
            assert_eq!(fault_of(calculation), expected, "{calculation}");
        }
    }

    #[test]
    fn an_answer_counts_all_its_calculations_and_names_the_first_wrong_one() {
        let calculations = check("a <<1+1=2>>2 <<1+1=3>>3\nb <<2+2=5>>5 << 4\n<<9=9>>9");
        assert_eq!((calculations.right, calculations.all), (2, 5));
        assert_eq!(calculations.first_wrong.as_deref(), Some("<<1+1=3>> is 2"));
        assert_eq!(check("none 1 < 2 >> 0"), Calculations::default());
        let open = check("x <<1+1");
        assert_eq!(open.first_wrong.as_deref(), Some("<<1+1 has no `>>`"));
    }

    /// An expression with its value, computed apart from the parser.
    fn expression() -> impl Strategy<Value = (String, Rational)> {
        let number = (0_i128..1000).prop_map(|n| (n.to_string(), Rational::new(n, 1).unwrap()));
        number.prop_recursive(3, 12, 2, |inner| {
            (inner.clone(), "[-+*/]", inner).prop_map(|((left, a), sign, (right, b))| {
                let value = match sign.as_str() {
                    "+" => a.plus(b),
                    "-" => a.minus(b),
                    "*" => a.times(b),
                    _ => a.over(b),
                };
                match value {
                    Some(value) => (format!("({left}){sign}({right})"), value),
                    None => (left, a),
                }
            })
        })
    }

    proptest! {
        #[test]
        fn expressions_have_the_value_they_were_built_with((text, expected) in expression()) {
            prop_assert_eq!(value(&text), Ok(expected));
        }

        #[test]
        fn any_text_is_checked_without_a_panic(text in "\\PC*", odd in "[-0-9+*/=().,%$<>]*") {
            check(&format!("<<{text}>>"));
            let calculations = check(&odd);
            prop_assert!(calculations.right <= calculations.all);
        }
    }
}

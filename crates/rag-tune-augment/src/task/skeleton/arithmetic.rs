//! The skeleton of worked steps: the operators of their calculations, in order.
//!
//! GSM8K marks each calculation, `<<48/2=24>>`; an answer without marks is searched for operators between numbers.

/// A calculation that only states a number, as in `<<27=27>>`.
const NO_OPERATOR: &str = "=";

/// The skeleton's tokens: `+`, `-`, `*`, `/`, and `=` for a marked number that nothing was done to.
pub(super) fn skeleton(answer: &str) -> Vec<&'static str> {
    let mut marks = answer.split("<<").skip(1).peekable();
    if marks.peek().is_none() {
        return operators(answer);
    }
    let mut skeleton = Vec::new();
    for mark in marks {
        let calculation = mark.split(">>").next().unwrap_or(mark);
        let left = calculation.split('=').next().unwrap_or(calculation);
        let operators = operators(left);
        if operators.is_empty() {
            skeleton.push(NO_OPERATOR);
        }
        skeleton.extend(operators);
    }
    skeleton
}

/// The operators that stand between two numbers, also with units of money and spaces between.
fn operators(text: &str) -> Vec<&'static str> {
    let mut operators = Vec::new();
    // What stands since the last number or closing parenthesis: nothing yet, one operator, or anything else.
    let mut between = Between::Other;
    for character in text.chars() {
        match character {
            '0'..='9' | '.' => {
                if let Between::Operator(operator) = between {
                    operators.push(operator);
                }
                between = Between::Nothing;
            }
            ')' | '%' => between = Between::Nothing,
            ' ' | ',' | '$' | '(' => {}
            _ => {
                between = match (between, operator(character)) {
                    (Between::Nothing, Some(operator)) => Between::Operator(operator),
                    _ => Between::Other,
                };
            }
        }
    }
    operators
}

#[derive(Clone, Copy)]
enum Between {
    Nothing,
    Operator(&'static str),
    Other,
}

fn operator(character: char) -> Option<&'static str> {
    match character {
        '+' => Some("+"),
        '-' | '–' | '−' => Some("-"),
        '*' | 'x' | 'X' | '×' => Some("*"),
        '/' | '÷' => Some("/"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(answer: &str) -> String {
        skeleton(answer).join(" ")
    }

    #[test]
    fn operators_of_the_marks_in_order() {
        let answer =
            "She has 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nThat is 9 * 2 = $<<9*2=18>>18.\n#### 18";
        assert_eq!(of(answer), "- - *");
        assert_eq!(of("<<(1+.5)*2=3>>3 <<27=27>>27 <<-5+10=5>>5"), "+ * = +");
    }

    #[test]
    fn without_marks_operators_between_numbers_count() {
        assert_eq!(
            of("It is 10 x 1,248 = 11,480 and $100 - $20 / 4, well-known x.\n#### 3"),
            "* - /"
        );
    }

    #[test]
    fn drafts_that_break_off_have_a_skeleton() {
        assert_eq!(of("He has <<3*"), "=");
        assert_eq!(of("<<"), "=");
        assert_eq!(of("I do not know"), "");
    }
}

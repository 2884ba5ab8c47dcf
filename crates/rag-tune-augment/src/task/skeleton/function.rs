//! The skeleton of a function with attributes: `inform(name[Driver], genres[sport])` gives `inform genres name`.

/// The skeleton's tokens: the function's name, then the attributes' in alphabetical order, each once.
pub(super) fn skeleton(answer: &str) -> Vec<&str> {
    let (function, arguments) = answer.split_once('(').unwrap_or((answer, ""));
    let mut attributes = attributes(arguments);
    attributes.sort_unstable();
    attributes.dedup();
    let function = function.split_whitespace().next_back();
    function.into_iter().chain(attributes).collect()
}

/// The words before values, which stand in brackets.
fn attributes(arguments: &str) -> Vec<&str> {
    let mut attributes = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, character) in arguments.char_indices() {
        match character {
            '[' => {
                if depth == 0 && at > start {
                    attributes.push(&arguments[start..at]);
                }
                depth += 1;
            }
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if !(character.is_alphanumeric() || character == '_') {
            start = at + character.len_utf8();
        }
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(answer: &str) -> String {
        skeleton(answer).join(" ")
    }

    #[test]
    fn values_and_the_order_of_attributes_do_not_matter() {
        assert_eq!(
            of(
                "inform(name[Dirt: Showdown], esrb[E 10+ (for Everyone 10 and Older)], genres[driving/racing, sport])"
            ),
            "inform esrb genres name"
        );
        assert_eq!(
            of("inform(genres[sport], esrb[], name[x])"),
            "inform esrb genres name"
        );
    }

    #[test]
    fn drafts_that_break_off_have_a_skeleton() {
        assert_eq!(of("inform(name[Driver, genres[spo"), "inform name");
        assert_eq!(of("inform(name"), "inform");
        assert_eq!(
            of("the answer is: suggest(name[a[b]c], name[d])"),
            "suggest name"
        );
        assert_eq!(of(" "), "");
    }
}

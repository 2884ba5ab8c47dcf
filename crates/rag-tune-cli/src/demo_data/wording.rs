//! Small pieces of English: plurals, articles, lists, and templates with named gaps.

/// The regular plural of the last word of `noun`.
pub fn plural(noun: &str) -> String {
    let ends_in = |endings: &[&str]| endings.iter().any(|ending| noun.ends_with(ending));
    match noun.strip_suffix('y') {
        Some(stem) if !ends_in(&["ay", "ey", "oy", "uy"]) => format!("{stem}ies"),
        _ if ends_in(&["s", "x", "ch", "sh"]) => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

/// `noun` with "a" or "an" before it, by how its first word sounds.
pub fn with_article(noun: &str) -> String {
    let silent_h = noun.starts_with("hour");
    let spoken_consonant = ["uni", "use", "eu", "one"]
        .iter()
        .any(|start| noun.starts_with(start));
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']) && !spoken_consonant;
    format!("{} {noun}", if vowel || silent_h { "an" } else { "a" })
}

/// "a", "a and b", "a, b and c", with `last` as the word before the last item.
pub fn list(items: &[String], last: &str) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., end] => format!("{} {last} {end}", rest.join(", ")),
    }
}

/// `template` with each `{name}` replaced, as a sentence: capital first, and no space too many
/// where a gap was filled with nothing.
pub fn sentence(template: &str, gaps: &[(&str, &str)]) -> String {
    let filled = gaps
        .iter()
        .fold(template.to_owned(), |text, (name, value)| {
            text.replace(&format!("{{{name}}}"), value)
        });
    let words = filled.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = words
        .replace(" ?", "?")
        .replace(" .", ".")
        .replace(" ,", ",");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// `phrase` with its `{}` replaced by `value`.
pub fn fill(phrase: &str, value: &str) -> String {
    phrase.replace("{}", value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_follow_the_last_letters() {
        let nouns = [
            "book",
            "party",
            "day",
            "branch",
            "loan date",
            "box",
            "class",
        ];
        let expected = [
            "books",
            "parties",
            "days",
            "branches",
            "loan dates",
            "boxes",
            "classes",
        ];
        assert_eq!(nouns.map(plural), expected);
    }

    #[test]
    fn articles_follow_the_sound() {
        let nouns = ["price", "age", "hourly rate", "height", "university"];
        let expected = [
            "a price",
            "an age",
            "an hourly rate",
            "a height",
            "a university",
        ];
        assert_eq!(nouns.map(with_article), expected);
    }

    #[test]
    fn sentences_start_with_a_capital_and_lose_double_spaces() {
        let text = sentence(
            "{many} have {done} {x} {y}?",
            &[("many", "bakers"), ("done", ""), ("x", "2"), ("y", "")],
        );
        assert_eq!(text, "Bakers have 2?");
    }

    #[test]
    fn lists_have_commas_and_a_last_word() {
        let items = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(list(&items, "and"), "a, b and c");
        assert_eq!(list(&items[..2], "or"), "a or b");
    }
}

//! English words that a capital does not make a name, and words that are numbers.

/// Words that relate other words and name nothing.
#[rustfmt::skip]
const FUNCTION_WORDS: &[&str] = &[
    "a", "about", "after", "against", "all", "along", "also", "although", "am", "among", "an", "and", "another",
    "any", "are", "as", "assuming", "at", "be", "because", "been", "before", "being", "below", "between",
    "both", "but", "by", "can", "could", "did", "do", "does", "don", "during", "each", "either", "every",
    "everyone", "for", "from", "had", "has", "have", "he", "her", "here", "hers", "him", "his", "how", "i",
    "if", "in", "including", "instead", "into", "is", "it", "its", "many", "may", "me", "more", "most", "much",
    "must", "my", "neither", "no", "none", "not", "of", "off", "on", "one", "only", "or", "other", "others",
    "our", "out", "over", "per", "shall", "she", "should", "since", "so", "some", "such", "than", "that", "the",
    "their", "them", "then", "there", "these", "they", "this", "those", "though", "through", "to", "under",
    "unless", "until", "up", "upon", "us", "was", "we", "were", "what", "whatever", "when", "where", "whether",
    "which", "while", "who", "whom", "whose", "why", "will", "with", "within", "without", "would", "you",
    "your", "yours",
];

/// Further words that often open a sentence.
#[rustfmt::skip]
const OPENERS: &[&str] = &[
    "according", "add", "additionally", "ah", "alas", "altogether", "apparently", "approximately", "average",
    "behind", "big", "calculate", "compared", "compute", "considering", "count", "currently", "describe",
    "despite", "determine", "display", "due", "earlier", "even", "eventually", "ever", "everything", "exactly",
    "excluding", "few", "final", "finally", "find", "first", "five", "following", "fortunately", "further",
    "furthermore", "generally", "get", "give", "given", "half", "halfway", "hello", "hey", "hi", "hmm",
    "honestly", "however", "identify", "initially", "just", "knowing", "last", "lastly", "later", "let", "like",
    "list", "make", "maybe", "meanwhile", "moreover", "name", "need", "never", "next", "normally", "now", "oh",
    "ok", "okay", "once", "order", "originally", "otherwise", "overall", "perhaps", "play", "please",
    "previously", "provide", "rated", "recently", "released", "remember", "report", "retrieve", "return",
    "returns", "right", "sadly", "same", "say", "second", "select", "several", "show", "similarly", "sometimes",
    "sort", "sorted", "speaking", "starting", "still", "suppose", "supposing", "sure", "take", "tell",
    "therefore", "third", "thus", "today", "together", "tomorrow", "tonight", "too", "total", "try", "twice",
    "typically", "unfortunately", "using", "usually", "well", "wow", "write", "yeah", "yes", "yesterday", "yet",
];

#[rustfmt::skip]
const NUMBER_WORDS: &[&str] = &[
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty",
    "sixty", "seventy", "eighty", "ninety", "hundred", "thousand", "million", "billion", "dozen",
];

/// Words before a full stop that does not end the sentence.
const ABBREVIATIONS: &[&str] = &[
    "Dr", "Jr", "Mr", "Mrs", "Ms", "No", "Prof", "Sr", "St", "vs",
];

/// Whether a word, in small letters, relates other words and names nothing.
pub(super) fn is_function_word(lower: &str) -> bool {
    FUNCTION_WORDS.binary_search(&lower).is_ok()
}

/// Whether a word, in small letters, often opens a sentence without being a name.
pub(super) fn is_opener(lower: &str) -> bool {
    is_function_word(lower) || OPENERS.binary_search(&lower).is_ok()
}

/// Whether a word, in small letters, is a number. `one` is not, as it mostly stands for a noun.
pub(super) fn is_number_word(lower: &str) -> bool {
    NUMBER_WORDS.contains(&lower)
}

/// Whether a full stop after `word` belongs to it: `Mr.`, or an initial.
pub(super) fn is_abbreviation(word: &str) -> bool {
    let mut characters = word.chars();
    let initial = characters.next().is_some_and(char::is_uppercase) && characters.next().is_none();
    (initial && word != "I") || ABBREVIATIONS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted_as_the_search_needs() {
        assert!(FUNCTION_WORDS.is_sorted());
        assert!(OPENERS.is_sorted());
    }
}

//! A row's answer as it grows: tokens to text, a piece at a time, up to the text that ends it.

use crate::error::ModelError;
use crate::tokenizer::Tokenizer;

/// What a decoder writes where bytes are no UTF-8, as those of a character whose last byte is still to come.
const INCOMPLETE: char = '\u{fffd}';

/// The text of a row's tokens. The answer is the sum of the pieces that [`Answer::push`] and [`Answer::finish`] give.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The last tokens: those that stand before new ones so that they are decoded as in the whole text, and then those whose
    /// text is not complete.
    window: Vec<u32>,
    /// Tokens of `window` whose text is in `held` or `text`.
    taken: usize,
    /// Their text.
    before: String,
    /// Complete text that may yet become a stop, or white space before the answer's first letter.
    held: String,
    /// Text that is certain.
    text: String,
}

/// New text that is certain, and whether it is the last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) is_last: bool,
}

impl Answer {
    /// The answer so far.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Takes the next token.
    pub(super) fn push(
        &mut self,
        id: u32,
        tokenizer: &Tokenizer,
        stops: &[String],
    ) -> Result<Piece, ModelError> {
        self.window.push(id);
        let window = tokenizer.decode(&self.window)?;
        if !window.ends_with(INCOMPLETE) {
            self.take(&window, tokenizer)?;
        }
        Ok(self.release(stops, Held::Back))
    }

    /// What is left where no token follows.
    pub(super) fn finish(
        &mut self,
        tokenizer: &Tokenizer,
        stops: &[String],
    ) -> Result<Piece, ModelError> {
        let window = tokenizer.decode(&self.window)?;
        self.take(&window, tokenizer)?;
        let piece = self.release(stops, Held::Nothing);
        Ok(Piece {
            is_last: true,
            ..piece
        })
    }

    /// Takes the text behind `before` over from that of the window.
    fn take(&mut self, window: &str, tokenizer: &Tokenizer) -> Result<(), ModelError> {
        match window.strip_prefix(self.before.as_str()) {
            // Tokens without text, as special ones are, do not become the context of those behind them.
            Some("") => return Ok(()),
            Some(new) => self.held.push_str(new),
            // A run of bytes that is no UTF-8 spoils characters before it, where a tokenizer decodes it as a whole.
            None => self
                .held
                .push_str(&tokenizer.decode(&self.window[self.taken..])?),
        }
        self.window.drain(..self.taken);
        self.taken = self.window.len();
        self.before = tokenizer.decode(&self.window)?;
        Ok(())
    }

    /// Moves what is certain from `held` to `text`.
    fn release(&mut self, stops: &[String], held: Held) -> Piece {
        if self.text.is_empty() {
            let start = self.held.len() - self.held.trim_start().len();
            self.held.drain(..start);
        }
        // What was released is no part of a stop, so none begins in it.
        let found = stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        let end = match (found, held) {
            (Some(at), _) => at,
            (None, Held::Nothing) => self.held.len(),
            (None, Held::Back) => self.held.len() - begun(&self.held, stops),
        };
        let text: String = self.held.drain(..end).collect();
        self.text.push_str(&text);
        Piece {
            text,
            is_last: found.is_some(),
        }
    }
}

/// What happens to text that may be the beginning of a stop.
#[derive(Clone, Copy)]
enum Held {
    Back,
    Nothing,
}

/// Bytes at the end of `text` that a stop begins with.
fn begun(text: &str, stops: &[String]) -> usize {
    let of = |stop: &String| {
        let starts = stop.char_indices().skip(1).map(|(at, _)| at);
        let longest = starts.filter(|at| text.ends_with(&stop[..*at])).max();
        longest.unwrap_or(0)
    };
    stops.iter().map(of).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::tests::byte_level;
    use crate::tokenizer::tests::sentencepiece::tiny;

    /// The pieces of an answer, and whether a stop ended it.
    fn pieces(ids: &[u32], tokenizer: &Tokenizer, stops: &[&str]) -> (Vec<String>, bool, String) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let (mut answer, mut pieces) = (Answer::default(), Vec::new());
        for id in ids {
            let piece = answer.push(*id, tokenizer, &stops).unwrap();
            pieces.push(piece.text);
            if piece.is_last {
                return (pieces, true, answer.into_text());
            }
        }
        pieces.push(answer.finish(tokenizer, &stops).unwrap().text);
        (pieces, false, answer.into_text())
    }

    fn of_text(text: &str, stops: &[&str]) -> (Vec<String>, bool) {
        let tokenizer = byte_level();
        // A token a byte: every stop straddles tokens.
        let ids = text
            .chars()
            .flat_map(|c| tokenizer.encode(&c.to_string()).unwrap());
        let ids: Vec<u32> = ids.collect();
        let (pieces, stopped, text) = pieces(&ids, &tokenizer, stops);
        assert_eq!(pieces.concat(), text);
        (
            pieces
                .into_iter()
                .filter(|piece| !piece.is_empty())
                .collect(),
            stopped,
        )
    }

    #[test]
    fn text_that_may_become_a_stop_is_held_back() {
        let (pieces, stopped) = of_text("ab#c##d", &["##"]);
        assert_eq!(pieces, ["a", "b", "#c"]);
        assert!(stopped);
        let (pieces, stopped) = of_text("ab#", &["##"]);
        assert_eq!(pieces, ["a", "b", "#"]);
        assert!(!stopped, "the end of the answer shows that it was none");
        // The suffix that a stop begins with is found again behind one that failed.
        assert_eq!(of_text("aab", &["aab"]), (vec![], true));
        assert_eq!(of_text("aaab", &["aab"]), (vec!["a".to_owned()], true));
    }

    #[test]
    fn the_first_of_several_stops_ends_the_answer() {
        assert_eq!(of_text("one;two\n", &["\n", ";"]).0.concat(), "one");
        assert_eq!(of_text("one\ntwo;", &["\n", ";"]).0.concat(), "one");
        assert_eq!(of_text("xabcd", &["abcd", "bc"]).0.concat(), "xa");
    }

    #[test]
    fn white_space_before_an_answer_is_skipped() {
        let (pieces, stopped) = of_text(" \n\t one two \n", &["\n"]);
        assert_eq!(pieces.concat(), "one two ");
        assert!(stopped && pieces[0] == "o");
        assert_eq!(of_text(" \n ", &["\n"]), (vec![], false));
    }

    #[test]
    fn a_character_comes_whole() {
        let (pieces, _) = of_text("aé€😀.", &[]);
        assert_eq!(pieces, ["a", "é", "€", "😀", "."]);
        let (pieces, stopped) = of_text("a€b", &["€"]);
        assert_eq!((pieces, stopped), (vec!["a".to_owned()], true));
    }

    proptest! {
        /// Whatever the tokens are, broken characters and special tokens among them.
        #[test]
        fn pieces_are_the_text_of_all_tokens(ids in prop::collection::vec(0_u32..262, 0..40)) {
            let tokenizer = byte_level();
            let (pieces, _, text) = pieces(&ids, &tokenizer, &[]);
            prop_assert_eq!(pieces.concat(), text.clone());
            let whole = tokenizer.decode(&ids).unwrap();
            prop_assert_eq!(text, whole.trim_start());
        }

        /// SentencePiece: a space belongs to the word behind it, the first one is stripped, and what is no piece comes in bytes.
        #[test]
        fn words_keep_their_spaces(text in "[ a-eé€😀]{0,30}") {
            let tokenizer = tiny();
            let ids = tokenizer.encode(&text).unwrap();
            let (pieces, _, text) = pieces(&ids, &tokenizer, &[]);
            prop_assert_eq!(pieces.concat(), text.clone());
            let whole = tokenizer.decode(&ids).unwrap();
            prop_assert_eq!(text, whole.trim_start());
        }
    }
}

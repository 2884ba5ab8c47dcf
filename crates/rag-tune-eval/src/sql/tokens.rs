//! As much of SQL's grammar as scoring needs: where strings, comments and parentheses are.
//!
//! Looking for `order by` or `distinct` in the bare text would also find them in strings and
//! subqueries, which is how the field's own scorer misjudges some rows.

/// What a piece of SQL text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// White space or a comment.
    Space,
    /// A keyword, name or number.
    Word,
    /// `'text'`, `"name"`, `` `name` `` or `[name]`.
    Quoted,
    /// Any other character, alone.
    Symbol,
}

/// A piece of SQL text; all tokens together are the text again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind,
    pub(super) text: &'a str,
}

impl Token<'_> {
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    pub(super) fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == TokenKind::Symbol && self.text == symbol
    }
}

/// The first statement of `sql` as it will be executed: trimmed, without its semicolon, and with
/// the comparison operators joined that tokenised data sets write apart (`> =`, `< =`, `! =`).
pub fn first_statement(sql: &str) -> String {
    let tokens: Vec<Token> = tokenize(sql)
        .into_iter()
        .skip_while(|token| token.kind == TokenKind::Space || token.is_symbol(";"))
        .take_while(|token| !token.is_symbol(";"))
        .collect();
    let mut statement = String::with_capacity(sql.len());
    for (i, token) in tokens.iter().enumerate() {
        if !splits_operator(&tokens, i) {
            statement.push_str(token.text);
        }
    }
    statement.trim().to_owned()
}

/// Whether token `i` is the blank inside `> =`, `< =` or `! =`.
fn splits_operator(tokens: &[Token], i: usize) -> bool {
    let is_blank = tokens[i].text.trim().is_empty();
    let before = i.checked_sub(1).map(|before| tokens[before]);
    let after = tokens.get(i + 1);
    is_blank
        && before.is_some_and(|token| ["<", ">", "!"].iter().any(|s| token.is_symbol(s)))
        && after.is_some_and(|token| token.is_symbol("="))
}

/// `sql` with every `DISTINCT` taken out, also inside aggregates and subqueries.
///
/// The comparison `IS [NOT] DISTINCT FROM` keeps its word: without it there is no such operator.
pub fn without_distinct(sql: &str) -> String {
    let tokens = tokenize(sql);
    let is_comparison = |i: usize| {
        let mut next = tokens[i + 1..].iter();
        next.find(|token| token.kind != TokenKind::Space)
            .is_some_and(|token| token.is_word("from"))
    };
    let kept = tokens
        .iter()
        .enumerate()
        .filter(|(i, token)| !token.is_word("distinct") || is_comparison(*i));
    kept.map(|(_, token)| token.text).collect()
}

/// `sql` with `YEAR(CURDATE())`, which SQLite does not know, replaced by the year in which Spider's gold queries
/// that say so were written to be right.
pub fn with_current_year(sql: &str) -> String {
    const CALL: [&str; 6] = ["year", "(", "curdate", "(", ")", ")"];
    let tokens = tokenize(sql);
    let mut text = String::with_capacity(sql.len());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match end_of_sequence(&tokens, at, &CALL) {
            Some(end) => {
                text.push_str("2020");
                at = end;
            }
            None => {
                text.push_str(token.text);
                at += 1;
            }
        }
    }
    text
}

/// Where `sequence` ends, if it stands at token `start`, with any white space between its words.
fn end_of_sequence(tokens: &[Token], start: usize, sequence: &[&str]) -> Option<usize> {
    let mut at = start;
    for (i, expected) in sequence.iter().enumerate() {
        // Only after the first word: else every token of a long run of spaces would look along all of it.
        while i > 0 && tokens.get(at)?.kind == TokenKind::Space {
            at += 1;
        }
        let token = tokens.get(at)?;
        if !token.is_word(expected) && !token.is_symbol(expected) {
            return None;
        }
        at += 1;
    }
    Some(at)
}

/// Whether the outermost query sorts its rows: an `ORDER BY` outside all parentheses.
pub fn sorts_its_rows(sql: &str) -> bool {
    let mut depth = 0_usize;
    let mut after_order = false;
    for token in tokenize(sql) {
        if token.kind == TokenKind::Space {
            continue;
        }
        if token.is_symbol("(") {
            depth += 1;
        } else if token.is_symbol(")") {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && after_order && token.is_word("by") {
            return true;
        }
        after_order = token.is_word("order");
    }
    false
}

/// All tokens of `sql`.
pub(super) fn tokenize(sql: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = first_token(rest, first);
        let (text, tail) = rest.split_at(length);
        tokens.push(Token { kind, text });
        rest = tail;
    }
    tokens
}

/// Kind and length in bytes of the token at the start of `text`, whose first character is `first`.
fn first_token(text: &str, first: char) -> (TokenKind, usize) {
    let up_to = |end: &str| text.find(end).map_or(text.len(), |at| at + end.len());
    let while_all = |test: fn(char) -> bool| text.find(|c| !test(c)).unwrap_or(text.len());
    match first {
        '-' if text.starts_with("--") => (TokenKind::Space, up_to("\n")),
        '/' if text.starts_with("/*") => {
            let end = text[2..].find("*/").map_or(text.len(), |at| at + 4);
            (TokenKind::Space, end)
        }
        '\'' | '"' | '`' => (TokenKind::Quoted, quoted_length(text, first)),
        '[' => (TokenKind::Quoted, up_to("]")),
        c if c.is_whitespace() => (TokenKind::Space, while_all(char::is_whitespace)),
        c if is_word_character(c) => (TokenKind::Word, while_all(is_word_character)),
        c => (TokenKind::Symbol, c.len_utf8()),
    }
}

/// Length of the quoted token at the start of `text`; a doubled quote stands for itself, and a
/// quote that is never closed reaches to the end.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut at = 1;
    while let Some(found) = text[at..].find(quote) {
        at += found + 1;
        if !text[at..].starts_with(quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

fn is_word_character(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || c == '.'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_first_statement_is_kept() {
        assert_eq!(first_statement("  SELECT 1 ; DROP TABLE t"), "SELECT 1");
        assert_eq!(first_statement("SELECT ';' ;"), "SELECT ';'");
        assert_eq!(
            first_statement("SELECT 1 -- a; b\n+ 1; x"),
            "SELECT 1 -- a; b\n+ 1"
        );
        assert_eq!(first_statement(";; SELECT 1"), "SELECT 1");
        assert_eq!(first_statement(" \n"), "");
    }

    #[test]
    fn split_operators_are_joined_outside_strings_only() {
        assert_eq!(
            first_statement("SELECT a WHERE b > = 1 AND c < = 2 AND d ! = '> ='"),
            "SELECT a WHERE b >= 1 AND c <= 2 AND d != '> ='"
        );
    }

    #[test]
    fn distinct_goes_everywhere_but_in_strings_names_and_comparisons() {
        assert_eq!(
            without_distinct("SELECT DISTINCT a, count(distinct b) FROM t WHERE c = 'distinct'"),
            "SELECT  a, count( b) FROM t WHERE c = 'distinct'"
        );
        let kept = "SELECT \"distinct\", distinct_id FROM t WHERE a IS NOT DISTINCT FROM b";
        assert_eq!(without_distinct(kept), kept);
    }

    #[test]
    fn the_current_year_is_2020_outside_strings() {
        assert_eq!(
            with_current_year("SELECT year ( CURDATE( ) ) - 1, Year(curdate())-age FROM t"),
            "SELECT 2020 - 1, 2020-age FROM t"
        );
        for kept in [
            "SELECT 'YEAR(CURDATE())' FROM t",
            "SELECT year(curdate(), 1), year FROM t WHERE year(curdate(",
        ] {
            assert_eq!(with_current_year(kept), kept);
        }
    }

    #[test]
    fn only_the_outermost_order_by_counts() {
        assert!(sorts_its_rows("SELECT a FROM t ORDER  BY a LIMIT 1"));
        assert!(sorts_its_rows("SELECT a FROM (SELECT 1) order/* so */by a"));
        assert!(!sorts_its_rows(
            "SELECT a FROM (SELECT a FROM t ORDER BY a)"
        ));
        assert!(!sorts_its_rows("SELECT rank() OVER (ORDER BY a) FROM t"));
        assert!(!sorts_its_rows(
            "SELECT a FROM t WHERE b = ') order by' -- ORDER BY"
        ));
        assert!(!sorts_its_rows("SELECT \"order\" by FROM t"));
        assert!(!sorts_its_rows("SELECT [order by] FROM \"it\"\"s (\" "));
    }

    proptest! {
        #[test]
        fn tokens_put_together_are_the_text(sql in "[ -~\n'\"`\\[\\]é√;()*/-]{0,40}") {
            let joined: String = tokenize(&sql).iter().map(|token| token.text).collect();
            prop_assert_eq!(joined, sql);
        }
    }
}

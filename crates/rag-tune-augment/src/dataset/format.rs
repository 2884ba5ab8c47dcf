//! The formats of data files, told by their names.

use std::path::Path;

use super::DataError;

/// How a file holds rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    /// An object a line.
    JsonLines,
    /// An array of objects, or an object a line: the first character tells.
    Json,
    /// Comma-separated values under a line of names.
    Csv,
    /// The same, tab-separated.
    Tsv,
    /// Parquet.
    Parquet,
}

const EXTENSIONS: [(&str, Format); 6] = [
    (".jsonl", Format::JsonLines),
    (".ndjson", Format::JsonLines),
    (".json", Format::Json),
    (".csv", Format::Csv),
    (".tsv", Format::Tsv),
    (".parquet", Format::Parquet),
];

impl Format {
    /// The format and whether the file is gzipped, with what remains of the name; `None` if the name
    /// does not end as that of a data file.
    pub(crate) fn of_name(name: &str) -> Option<(Self, Compression, &str)> {
        let plain = strip_ending(name, ".gz");
        let of = |name| {
            EXTENSIONS
                .iter()
                .find_map(|(e, f)| Some((*f, strip_ending(name, e)?)))
        };
        match plain {
            None => of(name).map(|(format, stem)| (format, Compression::None, stem)),
            Some(plain) => of(plain)
                .filter(|(format, _)| *format != Self::Parquet)
                .map(|(format, stem)| (format, Compression::Gzip, stem)),
        }
    }

    pub(super) fn of_path(path: &Path) -> Result<(Self, Compression), DataError> {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(Self::of_name)
            .map(|(format, compression, _)| (format, compression))
            .ok_or_else(|| DataError::UnknownFormat { path: path.into() })
    }
}

/// What a whole file is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Nothing (Parquet compresses within).
    None,
    /// One or more gzip members.
    Gzip,
}

fn strip_ending<'a>(name: &'a str, ending: &str) -> Option<&'a str> {
    let stem_len = name.len().checked_sub(ending.len())?;
    let (stem, end) = name.split_at_checked(stem_len)?;
    (!stem.is_empty() && end.eq_ignore_ascii_case(ending)).then_some(stem)
}

/// All endings, for messages.
pub(super) fn known() -> String {
    let endings: Vec<_> = EXTENSIONS.iter().map(|(ending, _)| *ending).collect();
    format!("{}, and all but the last also with .gz", endings.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_tells_the_format() {
        use Compression::{Gzip, None as Plain};
        let of = Format::of_name;
        assert_eq!(of("train.jsonl"), Some((Format::JsonLines, Plain, "train")));
        assert_eq!(of("a.b.CSV.gz"), Some((Format::Csv, Gzip, "a.b")));
        assert_eq!(of("t.parquet"), Some((Format::Parquet, Plain, "t")));
        for other in ["t.parquet.gz", "README.md", ".jsonl", "train", "é.gz", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}

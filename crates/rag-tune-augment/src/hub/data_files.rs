//! Which files of a data set are a split: decided from their paths alone, so that a folder, a mirror and
//! the hub's list of files all follow one rule.
//!
//! The names are those that Hugging Face's `datasets` library knows (its `data_files.py`):
//! `<split>.<format>`, `<split>-00000-of-00002.<format>`, `<name>_<split>.<format>`, `<split>/<any>.<format>`,
//! under `data/` or not, and in a folder of the configuration's name or with that name in front.

use std::collections::BTreeSet;

use crate::dataset::DataError;
use crate::dataset::format::{Compression, Format};

/// Names of one split, as the `datasets` library has them.
const SYNONYMS: [&[&str]; 3] = [
    &["train", "training"],
    &["validation", "valid", "dev", "val"],
    &["test", "testing", "eval", "evaluation"],
];

/// Files of known formats that describe a data set and hold none of its rows.
const DESCRIPTIONS: [&str; 8] = [
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "manifest.json",
    "package.json",
    "retrieval.json",
    "state.json",
];

/// The split that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// As the config names it, for messages.
    pub(super) source_name: &'a str,
    /// The part after `:`.
    pub(super) configuration: Option<&'a str>,
    /// The split's name.
    pub(super) split: &'a str,
    /// The split that files without a split's name belong to.
    pub(super) train_split: &'a str,
    /// What `data.files` says.
    pub(super) file: Option<&'a str>,
}

/// How well a path fits a split; the lesser, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Name,
    NameSynonym,
    Folder,
    FolderSynonym,
    Word,
    WordSynonym,
    /// No split is named, and this is the only data there is.
    Unnamed,
}

impl Fit {
    /// All files of a folder belong together, whatever their names.
    fn by_folder(self) -> bool {
        matches!(self, Self::Folder | Self::FolderSynonym)
    }
}

/// A data file by its path.
#[derive(Debug, Clone)]
struct Candidate<'a> {
    path: &'a str,
    format: (Format, bool),
    /// Folders but `data` at the front.
    folders: Vec<&'a str>,
    /// The name without its ending and the shard's number.
    stem: &'a str,
    /// Number of files that this is one of, where the name says so.
    shards: Option<usize>,
}

impl<'a> Candidate<'a> {
    fn new(path: &'a str) -> Option<Self> {
        let mut folders: Vec<&str> = path.split('/').collect();
        let name = folders.pop()?;
        let hidden = |part: &&str| part.starts_with('.') || part.starts_with("__");
        if folders.iter().any(hidden) || hidden(&name) || DESCRIPTIONS.contains(&name) {
            return None;
        }
        let (format, compression, stem) = Format::of_name(name)?;
        let (stem, shards) = shard(stem);
        if folders.first() == Some(&"data") {
            folders.remove(0);
        }
        Some(Self {
            path,
            format: (format, compression == Compression::Gzip),
            folders,
            stem,
            shards,
        })
    }

    /// The folders that are not a split's name.
    fn configuration(&self, split: &str) -> String {
        let folders = self.folders.iter().filter(|f| !names_a_split(f, split));
        folders.copied().collect::<Vec<_>>().join("/")
    }

    fn fit(&self, split: &str) -> Option<Fit> {
        let is = |name: &str| same(name, split);
        let is_synonym = |name: &str| synonyms(split).iter().any(|s| same(name, s));
        let folder = |matches: &dyn Fn(&str) -> bool| self.folders.iter().any(|f| matches(f));
        let fits = [
            (is(self.stem), Fit::Name),
            (is_synonym(self.stem), Fit::NameSynonym),
            (folder(&is), Fit::Folder),
            (folder(&is_synonym), Fit::FolderSynonym),
            (has_word(self.stem, split), Fit::Word),
            (
                synonyms(split).iter().any(|s| has_word(self.stem, s)),
                Fit::WordSynonym,
            ),
        ];
        fits.into_iter().find_map(|(fits, fit)| fits.then_some(fit))
    }

    /// Whether the path names `split` or one of the usual splits.
    fn is_recognised(&self, split: &str) -> bool {
        let usual = SYNONYMS.iter().map(|names| names[0]);
        usual.chain([split]).any(|split| self.fit(split).is_some())
    }

    /// What the path calls its split.
    fn split_name(&self, split: &str) -> &'a str {
        let folder = self.folders.iter().find(|f| names_a_split(f, split));
        match folder {
            Some(folder) if !names_a_split(self.stem, split) => folder,
            _ => self.stem,
        }
    }
}

impl Wanted<'_> {
    /// The files of the split among `files`, in the order of their rows.
    pub(super) fn choose(&self, files: &[String]) -> Result<Vec<String>, DataError> {
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let chosen = match self.file {
            Some(pattern) => self.named(&files, pattern)?,
            None => {
                let all: Vec<Candidate<'_>> =
                    files.iter().filter_map(|f| Candidate::new(f)).collect();
                self.guess(&all)?
            }
        };
        Ok(chosen.into_iter().map(str::to_owned).collect())
    }

    fn named<'f>(&self, files: &[&'f str], pattern: &str) -> Result<Vec<&'f str>, DataError> {
        let pattern = pattern.trim_start_matches("./");
        let mut matching: Vec<&str> = files
            .iter()
            .copied()
            .filter(|f| fits_pattern(f, pattern))
            .collect();
        matching.sort_by(|a, b| natural_order(a, b));
        let data = |path: &&str| Candidate::new(path).map(|c| c.format);
        let formats: BTreeSet<_> = matching.iter().filter_map(data).collect();
        if formats.len() > 1 {
            return Err(self.ambiguous(matching.into_iter()));
        }
        if matching.is_empty() {
            let available = files
                .iter()
                .filter_map(|f| Candidate::new(f))
                .map(|c| c.path.into());
            return Err(DataError::NoSuchFile {
                source_name: self.source_name.into(),
                split: self.split.into(),
                file: pattern.into(),
                available: available.collect(),
            });
        }
        Ok(matching)
    }

    fn guess<'f>(&self, all: &[Candidate<'f>]) -> Result<Vec<&'f str>, DataError> {
        let scope = self.scope(all)?;
        let fits = scope.iter().filter_map(|c| Some((c.fit(self.split)?, c)));
        let fits: Vec<_> = fits.collect();
        if let Some(best) = fits.iter().map(|(fit, _)| *fit).min() {
            let best_ones = fits.iter().filter(|(fit, _)| *fit == best).map(|(_, c)| *c);
            return self.one_split(best, best_ones.collect());
        }
        let unnamed = !scope.is_empty() && !scope.iter().any(|c| c.is_recognised(self.split));
        if unnamed && self.split == self.train_split {
            return self.one_split(Fit::Unnamed, scope.iter().collect());
        }
        let available: BTreeSet<&str> = match unnamed {
            true => [self.train_split].into(),
            false => scope.iter().map(|c| c.split_name(self.split)).collect(),
        };
        Err(DataError::SplitNotFound {
            source_name: self.source_name.into(),
            split: self.split.into(),
            available: available.into_iter().map(str::to_owned).collect(),
        })
    }

    /// The files of the configuration.
    fn scope<'f>(&self, all: &[Candidate<'f>]) -> Result<Vec<Candidate<'f>>, DataError> {
        let of = |c: &Candidate<'_>| c.configuration(self.split);
        let keep = |test: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<Candidate<'f>> {
            all.iter().filter(|c| test(c)).cloned().collect()
        };
        if let Some(wanted) = self.configuration {
            let in_folder = keep(&|c| in_folder(&of(c), wanted));
            if !in_folder.is_empty() {
                return Ok(in_folder);
            }
            let prefixed = all.iter().filter_map(|c| {
                let stem = without_prefix(c.stem, wanted)?;
                Some(Candidate { stem, ..c.clone() })
            });
            let prefixed: Vec<_> = prefixed.collect();
            // The hub calls a data set's only configuration `default`.
            if !prefixed.is_empty() || wanted != "default" {
                return match prefixed.is_empty() {
                    true => Err(self.no_configuration(wanted, all)),
                    false => Ok(prefixed),
                };
            }
        }
        let at_root = keep(&|c| of(c).is_empty());
        if at_root.iter().any(|c| c.fit(self.split).is_some()) {
            return Ok(at_root);
        }
        let names = |c: &&Candidate<'_>| c.is_recognised(self.split) && !of(c).is_empty();
        let mut available: BTreeSet<String> = all.iter().filter(names).map(of).collect();
        match (available.pop_first(), available.len()) {
            (None, _) => Ok(at_root),
            (Some(only), 0) => Ok(keep(&|c| of(c) == only)),
            (Some(first), _) => Err(DataError::SeveralConfigurations {
                source_name: self.source_name.into(),
                available: [first].into_iter().chain(available).collect(),
            }),
        }
    }

    fn no_configuration(&self, wanted: &str, all: &[Candidate<'_>]) -> DataError {
        let available: BTreeSet<String> = all.iter().map(|c| c.configuration(self.split)).collect();
        DataError::NoConfiguration {
            source_name: self.source_name.into(),
            configuration: wanted.into(),
            available: available
                .into_iter()
                .filter(|name| !name.is_empty())
                .collect(),
        }
    }

    /// Files that fit equally well: they are the shards of one split, or it is not clear which is meant.
    fn one_split<'f>(
        &self,
        fit: Fit,
        files: Vec<&Candidate<'f>>,
    ) -> Result<Vec<&'f str>, DataError> {
        let name = |c: &Candidate<'f>| match fit.by_folder() {
            true => String::new(),
            false => without_number(c.stem).to_lowercase(),
        };
        let kinds: BTreeSet<_> = files
            .iter()
            .map(|c| (c.format, parent(c.path), name(c), c.shards))
            .collect();
        if kinds.len() > 1 {
            return Err(self.ambiguous(files.iter().map(|c| c.path)));
        }
        if let Some(expected) = files.first().and_then(|c| c.shards)
            && expected != files.len()
        {
            return Err(DataError::MissingShards {
                source_name: self.source_name.into(),
                split: self.split.into(),
                found: files.len(),
                expected,
            });
        }
        let mut paths: Vec<&str> = files.iter().map(|c| c.path).collect();
        paths.sort_by(|a, b| natural_order(a, b));
        Ok(paths)
    }

    fn ambiguous<'f>(&self, candidates: impl Iterator<Item = &'f str>) -> DataError {
        DataError::AmbiguousSplit {
            source_name: self.source_name.into(),
            split: self.split.into(),
            candidates: candidates.map(str::to_owned).collect(),
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// All names of a split, itself included.
fn synonyms(split: &str) -> Vec<&str> {
    let group = SYNONYMS
        .iter()
        .find(|names| names.iter().any(|n| same(n, split)));
    group.map_or(vec![split], |names| names.to_vec())
}

fn names_a_split(name: &str, split: &str) -> bool {
    let usual = SYNONYMS.iter().copied().flatten().copied();
    usual.chain([split]).any(|split| same(name, split))
}

fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// What may stand beside a split's name.
fn is_separator(c: char) -> bool {
    "-._ ".contains(c) || c.is_ascii_digit()
}

/// Whether `word` stands in `text` between separators.
fn has_word(text: &str, word: &str) -> bool {
    let (text, word) = (text.to_lowercase(), word.to_lowercase());
    !word.is_empty()
        && text.match_indices(&word).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            before.is_none_or(is_separator) && after.is_none_or(is_separator)
        })
}

/// `<name>-00003-of-00007` (and a hash behind it, as older uploads have): the name, and 7.
fn shard(stem: &str) -> (&str, Option<usize>) {
    let Some((head, tail)) = stem.rsplit_once("-of-") else {
        return (stem, None);
    };
    let count: String = tail.chars().take_while(char::is_ascii_digit).collect();
    let rest = &tail[count.len()..];
    let name = head.trim_end_matches(|c: char| c.is_ascii_digit());
    match (name.strip_suffix('-'), count.parse()) {
        (Some(name), Ok(count))
            if name.len() + 1 < head.len() && (rest.is_empty() || rest.starts_with('-')) =>
        {
            (name, Some(count))
        }
        _ => (stem, None),
    }
}

/// `train-3`, `train_03` and `train3` without the number.
fn without_number(stem: &str) -> &str {
    let name = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    match name.len() == stem.len() {
        true => stem,
        false => name.trim_end_matches(['-', '_', '.', ' ']),
    }
}

/// `<prefix>_<rest>` without the prefix.
fn without_prefix<'a>(stem: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = stem.split_at_checked(prefix.len())?;
    let rest = rest.strip_prefix(['-', '_', '.', ' '])?;
    (same(start, prefix) && !rest.is_empty()).then_some(rest)
}

fn in_folder(folders: &str, wanted: &str) -> bool {
    folders == wanted
        || folders
            .strip_prefix(wanted)
            .is_some_and(|rest| rest.starts_with('/'))
        || folders
            .strip_suffix(wanted)
            .is_some_and(|rest| rest.ends_with('/'))
}

/// `*` is anything within a folder's or file's name, `**` anything at all.
fn fits_pattern(path: &str, pattern: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return path == pattern;
    };
    let Some(rest) = path.strip_prefix(head) else {
        return false;
    };
    let (any_depth, tail) = match tail.strip_prefix('*') {
        Some(tail) => (true, tail),
        None => (false, tail),
    };
    let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    ends.take_while(|end| any_depth || !rest[..*end].contains('/'))
        .any(|end| fits_pattern(&rest[end..], tail))
}

/// By characters, but numbers by their value: `part-2` before `part-10`.
fn natural_order(a: &str, b: &str) -> std::cmp::Ordering {
    runs(a).cmp(&runs(b)).then_with(|| a.cmp(b))
}

/// A character that is no digit, or a number: its length without zeros in front, then its digits.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Run<'a> {
    Number(usize, &'a str),
    Other(char),
}

fn runs(text: &str) -> Vec<Run<'_>> {
    let mut runs = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = rest[..digits].trim_start_matches('0');
        let (run, length) = match digits {
            0 => (Run::Other(first), first.len_utf8()),
            _ => (Run::Number(number.len(), number), digits),
        };
        runs.push(run);
        rest = &rest[length..];
    }
    runs
}

#[cfg(test)]
mod tests;

//! A folder that a command fills with a model: complete under its name, or not there.

use std::fs;
use std::path::Path;

use anyhow::Context;
use tempfile::TempDir;

use crate::commands::is_same_place;
use crate::error::InputError;

/// What of a model's folder belongs to a model made from it too, besides the weights and what the maker writes itself.
const COMPANIONS: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// What goes with every copy.
const LICENCE: [&str; 2] = ["LICENSE", "NOTICE"];

/// Where a model is to be written.
#[derive(Debug, Clone, Copy)]
pub struct ModelFolder<'a> {
    /// Its name.
    pub out: &'a Path,
    /// The file that says how a model was made; without it a folder is not replaced.
    pub record: &'a str,
    /// What the command makes, for messages: "merged model".
    pub kind: &'a str,
    /// Whether an earlier one is replaced.
    pub force: bool,
}

impl ModelFolder<'_> {
    /// Neither a model nor anything else is replaced by a slip. `sources` are what is read, each with whose it is.
    ///
    /// # Errors
    /// When something stands there that must stay.
    pub fn require_free(&self, sources: &[(&str, &Path)]) -> anyhow::Result<()> {
        let refuse = |message: String, hint: &str| Err(InputError::new(message, hint).into());
        let path = self.out.display();
        for (whose, source) in sources {
            if is_same_place(self.out, source) {
                let message = format!("--out is {whose} own folder, `{path}`");
                return refuse(message, "name another folder");
            }
        }
        let is_empty_folder = fs::read_dir(self.out).is_ok_and(|mut all| all.next().is_none());
        if !self.out.exists() || is_empty_folder {
            return Ok(());
        }
        if !self.out.join(self.record).is_file() {
            let message = format!("`{path}` is there already, and is no {}", self.kind);
            return refuse(message, "name another folder");
        }
        if !self.force {
            return refuse(format!("`{path}` is there already"), "--force replaces it");
        }
        Ok(())
    }

    /// A folder beside it, removed again unless it is published.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn temporary(&self) -> anyhow::Result<TempDir> {
        let parent = self.out.parent().filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new("."));
        let make = || {
            fs::create_dir_all(parent)?;
            let mut builder = tempfile::Builder::new();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                builder.permissions(fs::Permissions::from_mode(0o777)); // less the umask
            }
            builder.prefix(".rag-tune-").tempdir_in(parent)
        };
        make().with_context(|| format!("cannot write in `{}`", parent.display()))
    }

    /// Gives the finished folder its name; an earlier model goes last.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn publish(&self, folder: TempDir) -> anyhow::Result<()> {
        let earlier = folder.path().with_extension("earlier");
        let rename = || {
            let replaces = self.out.exists();
            if replaces {
                fs::rename(self.out, &earlier)?;
            }
            fs::rename(folder.path(), self.out)?;
            match replaces {
                true => fs::remove_dir_all(&earlier),
                false => Ok(()),
            }
        };
        rename().with_context(|| format!("cannot write `{}`", self.out.display()))?;
        // It has another name now: there is nothing left to remove.
        let _renamed = folder.keep();
        Ok(())
    }
}

/// Copies what belongs to a model besides its weights, as far as it is not there yet.
///
/// # Errors
/// When a file cannot be copied.
pub fn copy_companions(from: &Path, to: &Path) -> anyhow::Result<()> {
    copy(&COMPANIONS, from, to)?;
    copy_licence(from, to)
}

/// Of that, only what nothing else can stand for.
///
/// # Errors
/// When a file cannot be copied.
pub fn copy_licence(from: &Path, to: &Path) -> anyhow::Result<()> {
    copy(&LICENCE, from, to)
}

fn copy(names: &[&str], from: &Path, to: &Path) -> anyhow::Result<()> {
    for name in names {
        let (from, to) = (from.join(name), to.join(name));
        if from.is_file() && !to.exists() {
            let context = || format!("cannot copy `{}` to `{}`", from.display(), to.display());
            fs::copy(&from, &to).with_context(context)?;
        }
    }
    Ok(())
}

//! Augmented files that are made once and reused as long as nothing that they depend on has changed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rag_tune_augment::{AugmentRequest, Hub, Task};

use crate::config::RunConfig;
use crate::output::Output;

/// The prompts of some splits of a config's data, in a folder.
#[derive(Debug, Clone, Copy)]
pub struct Augmentation<'a> {
    /// Data, retrieval and seed.
    pub config: &'a RunConfig,
    /// The task, which a run's own record may describe instead of the config.
    pub task: &'a Task,
    /// The splits that are wanted.
    pub splits: &'a [&'a str],
    /// Where their files are, or will be.
    pub folder: &'a Path,
}

/// What [`Augmentation::ensure`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The files were there, made with these settings.
    WasCurrent,
    /// They were missing or made with others.
    Made,
}

impl Augmentation<'_> {
    /// Makes the files unless they are there already, made with these settings.
    ///
    /// # Errors
    /// What [`rag_tune_augment::augment`] reports.
    pub fn ensure(&self, hub: &Hub, out: &Output) -> anyhow::Result<Freshness> {
        const CONTEXT: &str = "cannot augment the data";
        if self.is_current(hub)? {
            return Ok(Freshness::WasCurrent);
        }
        let progress = out.progress();
        rag_tune_augment::augment(&self.request(), hub, &progress).context(CONTEXT)?;
        out.note(&format!(
            "augmented {} into {}",
            self.splits.join(", "),
            self.folder.display()
        ));
        Ok(Freshness::Made)
    }

    /// Whether the files are there, made with these settings.
    ///
    /// # Errors
    /// When the data set or the embedder cannot be found.
    pub fn is_current(&self, hub: &Hub) -> anyhow::Result<bool> {
        rag_tune_augment::is_current(&self.request(), hub).context("cannot augment the data")
    }

    /// The file of `split`.
    pub fn file(&self, split: &str) -> PathBuf {
        self.folder.join(format!("{split}.jsonl"))
    }

    /// What the augment crate is asked.
    pub fn request(&self) -> AugmentRequest<'_> {
        AugmentRequest {
            task: self.task,
            data: &self.config.data,
            retrieval: &self.config.retrieval,
            splits: self.splits,
            out: self.folder,
            seed: self.config.seed,
            cache: cache_folder(),
        }
    }
}

/// Where vectors of texts are remembered between runs; nowhere on a system without a home.
fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let caches = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("rag-tune"))
}

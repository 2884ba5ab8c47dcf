//! Augmented files that are made once and reused as long as nothing that they depend on has changed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rag_tune_augment::{
    AugmentRequest, Augmented, AugmentedRow, Hub, Task, output_path, read_augmented,
};

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
        self.ensure_epochs(1, hub, out)
    }

    /// The rows of the training split, as each epoch sees them; one list if all epochs see the same.
    ///
    /// `passes` tells from the first list how many the run begins.
    ///
    /// # Errors
    /// As [`Augmentation::ensure`], and what `passes` reports.
    pub fn training_rows(
        &self,
        hub: &Hub,
        out: &Output,
        passes: impl FnOnce(&[AugmentedRow]) -> anyhow::Result<usize>,
    ) -> anyhow::Result<Vec<Vec<AugmentedRow>>> {
        self.ensure(hub, out)?;
        let split = &self.config.data.train_split;
        let read = |epoch| read_augmented(&output_path(self.folder, split, epoch));
        let mut lists = vec![read(0)?];
        if self.config.retrieval.draws_each_epoch() {
            let epochs = passes(&lists[0])?;
            self.ensure_epochs(epochs, hub, out)?;
            for epoch in 1..epochs {
                lists.push(read(epoch)?);
            }
        }
        Ok(lists)
    }

    fn ensure_epochs(&self, epochs: usize, hub: &Hub, out: &Output) -> anyhow::Result<Freshness> {
        const CONTEXT: &str = "cannot augment the data";
        let request = self.request(epochs);
        if rag_tune_augment::is_current(&request, hub).context(CONTEXT)? {
            return Ok(Freshness::WasCurrent);
        }
        let progress = out.progress();
        let augmented = rag_tune_augment::augment(&request, hub, &progress).context(CONTEXT)?;
        for note in self.notes(&augmented) {
            out.note(&note);
        }
        Ok(Freshness::Made)
    }

    /// What the user should know of a run.
    fn notes(&self, augmented: &Augmented) -> Vec<String> {
        let folder = self.folder.display();
        let mut notes = vec![format!(
            "augmented {} into {folder}",
            self.splits.join(", ")
        )];
        for (split, record) in &augmented.manifest.splits {
            if record.skipped > 0 && self.splits.contains(&split.as_str()) {
                let skipped = record.skipped;
                notes.push(format!("bad rows of {split} that were left out: {skipped}"));
            }
        }
        if augmented.excluded > 0 {
            let excluded = augmented.excluded;
            notes.push(format!(
                "training rows that equal an eval row, and so are nobody's example: {excluded}"
            ));
        }
        let usage = augmented.usage;
        if usage.tokens > 0 {
            let price = usage
                .dollars
                .map(|dollars| format!(", {dollars:.4} US dollars by the list price"));
            let price = price.unwrap_or_default();
            notes.push(format!(
                "tokens embedded by the endpoint: {}{price}",
                usage.tokens
            ));
        }
        notes
    }

    /// Whether the files are there, made with these settings.
    ///
    /// # Errors
    /// When the data set or the embedder cannot be found.
    pub fn is_current(&self, hub: &Hub) -> anyhow::Result<bool> {
        rag_tune_augment::is_current(&self.request(1), hub).context("cannot augment the data")
    }

    /// The file of `split`.
    pub fn file(&self, split: &str) -> PathBuf {
        output_path(self.folder, split, 0)
    }

    /// What the augment crate is asked.
    pub fn request(&self, epochs: usize) -> AugmentRequest<'_> {
        AugmentRequest {
            task: self.task,
            data: &self.config.data,
            retrieval: &self.config.retrieval,
            splits: self.splits,
            out: self.folder,
            seed: self.config.seed,
            epochs,
            cache: cache_folder(),
        }
    }
}

/// Where vectors of texts and measured speeds are remembered between runs; nowhere on a system without a home.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let caches = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("rag-tune"))
}

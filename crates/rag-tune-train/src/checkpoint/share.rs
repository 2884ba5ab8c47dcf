//! A checkpoint that rank 0 has found, for the other ranks: they need not see its disk.

use std::fs;
use std::path::Path;

use rag_tune_model::lora::Adapter;
use serde::{Deserialize, Serialize};

use super::{load, read_state};
use crate::error::TrainError;
use crate::optimizer::Optimizer;
use crate::ranks::{Collective, broadcast_json};
use crate::run_state::RunState;

/// What is told before the files.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    step: usize,
    /// The files' names; each is sent in this order.
    names: Vec<String>,
}

/// Rank 0: gives the checkpoint of `step` in the folder `path` to all.
pub(crate) fn give(step: usize, path: &Path, ranks: &mut dyn Collective) -> Result<(), TrainError> {
    if ranks.world().size == 1 {
        return Ok(());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(TrainError::read(path))? {
        let name = entry.map_err(TrainError::read(path))?.file_name();
        names.extend(name.into_string());
    }
    let Contents { names, .. } = broadcast_json(ranks, Contents { step, names })?;
    for name in names {
        let file = path.join(name);
        let mut bytes = fs::read(&file).map_err(TrainError::read(&file))?;
        ranks.broadcast(&mut bytes)?;
    }
    Ok(())
}

/// Every other rank: takes what [`give`] sends, through files, as it would from its own disk.
pub(crate) fn receive(
    adapter: &mut Adapter,
    optimizer: &mut Optimizer,
    ranks: &mut dyn Collective,
) -> Result<RunState, TrainError> {
    let Contents { step, names } = broadcast_json(ranks, Contents::default())?;
    let temporary = std::env::temp_dir();
    let folder = tempfile::tempdir().map_err(TrainError::write(&temporary))?;
    for name in names {
        let mut bytes = Vec::new();
        ranks.broadcast(&mut bytes)?;
        // Only the name: what was sent is written nowhere else.
        let name = Path::new(&name).file_name().unwrap_or_default();
        let file = folder.path().join(name);
        fs::write(&file, bytes).map_err(TrainError::write(&file))?;
    }
    let state = read_state(folder.path(), step)
        .and_then(|state| load(folder.path(), adapter, optimizer).map(|()| state));
    match state {
        Ok(state) => Ok(state.run),
        Err(reason) => {
            let path = folder.path().to_owned();
            Err(TrainError::NoWholeCheckpoint {
                refused: vec![(path, reason)],
            })
        }
    }
}

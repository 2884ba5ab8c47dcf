//! Tensors that a thread reads from the disk while others are quantised.
//!
//! They are read past the page cache where the file system allows it: a model's files are read once, are larger than what memory has left, and
//! copying them through the cache costs as much processor time as quantising them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use rag_tune_kernels::{FloatType, Floats};

use crate::error::ModelError;

/// Addresses, offsets and lengths of reads past the page cache are multiples of it: a page, and no disk has larger blocks.
const BLOCK: usize = 4096;

/// Tensors in memory: one that is quantised, one that is read, one between them.
const BUFFERS: usize = 3;

/// A tensor of floating point values in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredFloats {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: Range<usize>,
    pub(crate) dtype: FloatType,
}

/// Tensors in the order in which they will be asked for.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    read: Receiver<Result<Piece, ModelError>>,
    used: Sender<Buffer>,
}

/// A tensor in memory.
#[derive(Debug)]
pub(crate) struct Piece {
    tensor: StoredFloats,
    buffer: Buffer,
}

impl ReadAhead {
    /// Begins to read `tensors`.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub(crate) fn start(tensors: Vec<StoredFloats>) -> io::Result<Self> {
        let (to_reader, free) = channel();
        let (to_model, read) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            to_reader
                .send(Buffer::default())
                .expect("the other end is here");
        }
        std::thread::Builder::new()
            .name("read ahead".to_owned())
            .spawn(move || read_all(tensors, &free, &to_model))?;
        Ok(Self {
            read,
            used: to_reader,
        })
    }

    /// The next tensor, which must be `name`; `None` if it is another, and then nothing that follows is of use.
    ///
    /// # Errors
    /// [`ModelError::Io`] if it could not be read.
    pub(crate) fn next(&self, name: &str) -> Result<Option<Piece>, ModelError> {
        let piece = self.read.recv().ok().transpose()?;
        Ok(piece.filter(|piece| piece.tensor.name == name))
    }

    /// Takes a tensor's memory back for the tensors to come.
    pub(crate) fn give_back(&self, piece: Piece) {
        // Once everything is read nobody takes it.
        let unwanted = self.used.send(piece.buffer);
        drop(unwanted);
    }
}

impl Piece {
    /// Its values.
    pub(crate) fn floats(&self) -> Floats<'_> {
        Floats::new(self.tensor.dtype, self.buffer.content())
    }
}

/// Ends early when nobody listens any more.
fn read_all(
    tensors: Vec<StoredFloats>,
    free: &Receiver<Buffer>,
    to_model: &SyncSender<Result<Piece, ModelError>>,
) {
    let mut opened: Option<(PathBuf, File)> = None;
    for tensor in tensors {
        let Ok(mut buffer) = free.recv() else { return };
        let mut read = || {
            let file = match opened.take() {
                Some((path, file)) if path == tensor.path => file,
                _ => open_direct(&tensor.path)?,
            };
            let (_, file) = opened.insert((tensor.path.clone(), file));
            buffer.fill(file, tensor.bytes.clone())
        };
        let read = read().map_err(ModelError::io(&tensor.path));
        let failed = read.is_err();
        let piece = read.map(|()| Piece { tensor, buffer });
        if to_model.send(piece).is_err() || failed {
            return;
        }
    }
}

/// Past the page cache if the file system can do that.
fn open_direct(path: &Path) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let direct = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path);
        if let Ok(file) = direct {
            return Ok(file);
        }
    }
    File::open(path)
}

/// Memory that begins at a multiple of [`BLOCK`].
#[derive(Debug, Default)]
struct Buffer {
    memory: Vec<u8>,
    /// Where in `memory` the content is.
    content: Range<usize>,
}

impl Buffer {
    fn content(&self) -> &[u8] {
        &self.memory[self.content.clone()]
    }

    /// Reads `bytes` of `file`, and what lies around them in the same blocks.
    fn fill(&mut self, file: &mut File, bytes: Range<usize>) -> io::Result<()> {
        let start = bytes.start / BLOCK * BLOCK;
        let len = bytes.end.next_multiple_of(BLOCK) - start;
        if self.memory.len() < len + BLOCK {
            // The old content is of no use, and must not be copied.
            self.memory = Vec::new();
            self.memory = vec![0; len + BLOCK];
        }
        let first = self.memory.as_ptr().align_offset(BLOCK);
        let blocks = &mut self.memory[first..first + len];
        file.seek(SeekFrom::Start(start as u64))?;
        let wanted = bytes.end - start;
        let mut have = 0;
        while have < wanted {
            // Only the file's end is no multiple of a block, and nothing is read after it.
            match file.read(&mut blocks[have..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.content = first + (bytes.start - start)..first + wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(path: &Path, name: &str, bytes: Range<usize>) -> StoredFloats {
        StoredFloats {
            name: name.to_owned(),
            path: path.to_owned(),
            bytes,
            dtype: FloatType::F32,
        }
    }

    #[test]
    fn tensors_come_in_order_from_any_place_of_any_file() {
        let folder = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..5000).map(|value| value as f32).collect();
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, &bytes).unwrap();
        std::fs::write(&b, &bytes[400..]).unwrap();
        let cases = [
            (&a, 0..4, 0),
            (&b, 8..19_600, 102),
            (&a, 4092..4100, 1023),
            (&a, 4096..20_000, 1024),
            (&b, 12_288..12_288, 3172),
        ];
        let tensors = cases.iter().enumerate();
        let tensors = tensors.map(|(index, (path, bytes, _))| {
            tensor(path, &format!("tensor {index}"), bytes.clone())
        });
        let ahead = ReadAhead::start(tensors.collect()).unwrap();
        for (index, (_, bytes, first)) in cases.iter().enumerate() {
            let piece = ahead.next(&format!("tensor {index}")).unwrap().unwrap();
            let got = piece.floats().into_vec();
            assert_eq!(got.len(), bytes.len() / 4);
            let wrong = got.iter().zip(&values[*first..]).filter(|(a, b)| a != b);
            assert_eq!(wrong.count(), 0, "tensor {index}");
            ahead.give_back(piece);
        }
        assert!(ahead.next("one more").unwrap().is_none());
    }

    #[test]
    fn another_tensor_than_the_next_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, [0; 64]).unwrap();
        let tensors = vec![tensor(&path, "first", 0..8), tensor(&path, "second", 8..16)];
        let ahead = ReadAhead::start(tensors).unwrap();
        assert!(ahead.next("second").unwrap().is_none());
    }

    #[test]
    fn a_file_that_ends_early_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("short");
        std::fs::write(&path, [0; 64]).unwrap();
        let ahead = ReadAhead::start(vec![tensor(&path, "first", 0..8192)]).unwrap();
        let error = ahead.next("first").unwrap_err();
        assert!(error.to_string().contains("short"), "{error}");
    }
}

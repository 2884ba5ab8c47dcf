//! One connection between rank 0 and another rank: frames of a kind, a length and a content.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};

use crate::ranks::RankError;

const BEAT: u8 = 0;
const DATA: u8 = 1;
const FAILURE: u8 = 2;
const BYE: u8 = 3;

/// What the ranks tell each other.
pub(super) enum Frame {
    /// Only that the sender is alive.
    Beat,
    /// What a call of [`Collective`](crate::ranks::Collective) has sent.
    Data(Vec<u8>),
    /// The run is over.
    Failure(RankError),
    /// The sender has ended as it should.
    Bye,
}

/// The connection to a rank. Several threads write to it, each a whole frame at a time.
pub(super) struct Wire {
    pub(super) rank: usize,
    stream: TcpStream,
    writing: Mutex<()>,
}

impl Wire {
    pub(super) fn new(rank: usize, stream: TcpStream) -> Self {
        Self {
            rank,
            stream,
            writing: Mutex::new(()),
        }
    }

    pub(super) fn data(&self, bytes: &[u8]) -> io::Result<()> {
        self.write(DATA, bytes)
    }

    pub(super) fn failure(&self, error: &RankError) -> io::Result<()> {
        self.write(FAILURE, &serde_json::to_vec(error)?)
    }

    pub(super) fn bye(&self) -> io::Result<()> {
        self.write(BYE, &[])
    }

    /// Unless a frame is on its way, which says as much.
    pub(super) fn beat(&self) -> io::Result<()> {
        match self.writing.try_lock() {
            Ok(_writing) => write(&self.stream, BEAT, &[]),
            Err(_) => Ok(()),
        }
    }

    fn write(&self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write(&self.stream, kind, bytes)
    }

    /// Waits for the next frame, at most as long as the stream's time-out.
    pub(super) fn read(&self) -> io::Result<Frame> {
        let mut head = [0; 9];
        (&self.stream).read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u64::from_le_bytes(length);
        // Read as it comes: a length that is not true must not take memory.
        let mut bytes = Vec::new();
        (&self.stream).take(length).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match kind {
            BEAT => Ok(Frame::Beat),
            DATA => Ok(Frame::Data(bytes)),
            FAILURE => Ok(Frame::Failure(serde_json::from_slice(&bytes)?)),
            BYE => Ok(Frame::Bye),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Nothing more is written; what was written still arrives.
    pub(super) fn end_writing(&self) {
        self.stream.shutdown(Shutdown::Write).ok(); // it may be closed already
    }

    /// Ends every read and write, also those that are waiting.
    pub(super) fn close(&self) {
        self.stream.shutdown(Shutdown::Both).ok(); // it may be closed already
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

fn write(mut stream: &TcpStream, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let mut head = [kind; 9];
    head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    stream.write_all(&head)?;
    stream.write_all(bytes)
}

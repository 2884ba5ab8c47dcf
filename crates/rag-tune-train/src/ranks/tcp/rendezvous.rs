//! How the ranks find each other, and who is let in.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Patience, Tcp};
use crate::ranks::{RankError, Rendezvous, World};

/// Raised with every change of what is sent.
const PROTOCOL: u32 = 1;
/// What every greeting begins with: other programs may knock at the port too.
const MAGIC: [u8; 16] = *b"rag-tune ranks:\n";
/// The most bytes of a greeting.
const MOST: u32 = 1 << 16;
/// How long a knock may be silent: meanwhile no other is answered.
const GREETING: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What a rank says first.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    rank: usize,
    size: usize,
    protocol: u32,
    version: String,
}

/// What rank 0 answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Welcome,
    Refused(RankError),
}

impl Hello {
    fn of(world: World) -> Self {
        Self {
            rank: world.rank,
            size: world.size,
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Why this rank is not let in by `first`.
    fn objection(&self, first: &Self, is_here: bool) -> Option<String> {
        if (self.protocol, &self.version) != (first.protocol, &first.version) {
            return Some(format!(
                "it is rag-tune {} (protocol {}), rank 0 is {} (protocol {})",
                self.version, self.protocol, first.version, first.protocol
            ));
        }
        if self.size != first.size {
            return Some(format!(
                "it was started as one of {}, rank 0 as one of {}",
                self.size, first.size
            ));
        }
        if self.rank == 0 || self.rank >= self.size {
            return Some(format!(
                "there is no such rank to wait for among {}",
                self.size
            ));
        }
        is_here.then(|| "there is one already".to_owned())
    }
}

/// Listens where the others look. A loopback address is for this machine only; any other name may stand
/// for one interface here and another elsewhere, so all are listened at.
pub(super) fn listen(rendezvous: &Rendezvous) -> Result<TcpListener, RankError> {
    let Rendezvous { host, port } = rendezvous;
    let is_loopback = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let bound = match is_loopback {
        true => TcpListener::bind((host.as_str(), *port)),
        // Where the system has no IPv6, IPv4 alone.
        false => TcpListener::bind(("::", *port)).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Err(error),
            _ => TcpListener::bind(("0.0.0.0", *port)),
        }),
    };
    bound.map_err(|error| RankError::Listen {
        address: rendezvous.to_string(),
        reason: error.to_string(),
    })
}

/// Rank 0: lets the others in.
pub(super) fn welcome_all(
    tcp: &mut Tcp,
    listener: &TcpListener,
    patience: Patience,
) -> Result<(), RankError> {
    let cannot = |error: io::Error| RankError::Listen {
        address: listener
            .local_addr()
            .map_or_else(|_| "its port".to_owned(), |address| address.to_string()),
        reason: error.to_string(),
    };
    listener.set_nonblocking(true).map_err(cannot)?;
    let start = Instant::now();
    loop {
        let missing: Vec<usize> = (1..tcp.world.size)
            .filter(|rank| !tcp.is_here(*rank))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        // One that came may be lost while the others are waited for.
        if let Some(failure) = tcp.inbox.failure() {
            return Err(failure);
        }
        match listener.accept() {
            Ok((stream, _)) => welcome(tcp, stream, patience)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(PAUSE),
            // The one who knocked has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot(error)),
        }
        if start.elapsed() > patience.start {
            let (ranks, seconds) = (missing, patience.start.as_secs());
            return Err(RankError::Missing { ranks, seconds });
        }
    }
}

/// Lets one in, or says why not. Whoever does not greet as a rank does is none.
fn welcome(tcp: &mut Tcp, stream: TcpStream, patience: Patience) -> Result<(), RankError> {
    let greeting = || -> io::Result<Hello> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(GREETING))?;
        stream.set_write_timeout(Some(GREETING))?;
        hear(&stream)
    };
    let Ok(hello) = greeting() else {
        return Ok(());
    };
    let rank = hello.rank;
    if let Some(reason) = hello.objection(&Hello::of(tcp.world), tcp.is_here(rank)) {
        let error = RankError::Refused { rank, reason };
        say(&stream, &Answer::Refused(error.clone())).ok(); // it may be gone again
        return Err(error);
    }
    let answered = say(&stream, &Answer::Welcome).and_then(|()| stream.set_write_timeout(None));
    match answered {
        Ok(()) => tcp.add(rank, stream, patience),
        Err(_) => Ok(()), // gone again: then it is missing
    }
}

/// Every other rank: looks for rank 0 until it is there.
pub(super) fn find_first(
    world: World,
    rendezvous: &Rendezvous,
    patience: Patience,
) -> Result<TcpStream, RankError> {
    let start = Instant::now();
    loop {
        let left = patience.start.saturating_sub(start.elapsed());
        let error = match knock(world, rendezvous, left.max(PAUSE)) {
            Ok((stream, Answer::Welcome)) => return Ok(stream),
            Ok((_, Answer::Refused(error))) => return Err(error),
            Err(error) => error,
        };
        let is_other = error.kind() == io::ErrorKind::InvalidData;
        if is_other || start.elapsed() > patience.start {
            return Err(RankError::NoFirst {
                rank: world.rank,
                address: rendezvous.to_string(),
                seconds: start.elapsed().as_secs(),
                reason: error.to_string(),
            });
        }
        sleep(5 * PAUSE);
    }
}

fn knock(world: World, rendezvous: &Rendezvous, left: Duration) -> io::Result<(TcpStream, Answer)> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (rendezvous.host.as_str(), rendezvous.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left.min(GREETING)) {
            Ok(stream) => {
                stream.set_write_timeout(Some(GREETING))?;
                // Rank 0 may be answering others first.
                stream.set_read_timeout(Some(left))?;
                say(&stream, &Hello::of(world))?;
                let answer = hear(&stream)?;
                stream.set_write_timeout(None)?;
                return Ok((stream, answer));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn say(mut stream: &TcpStream, greeting: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(greeting)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&[&MAGIC[..], &length.to_le_bytes(), &text].concat())
}

fn hear<T: DeserializeOwned>(mut stream: &TcpStream) -> io::Result<T> {
    let other = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; MAGIC.len() + 4];
    stream.read_exact(&mut head)?;
    let (magic, length) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(other("another program listens there"));
    }
    let length = u32::from_le_bytes(length.try_into().expect("four bytes are left"));
    if length > MOST {
        return Err(other("its greeting is too long"));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

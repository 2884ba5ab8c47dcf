//! The ranks of a run as threads of the test, connected over the loopback interface.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use rag_tune_train::ranks::{Collective, Patience, Rendezvous, Tcp, World};

const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(30),
    start: Duration::from_secs(30),
};

/// Does the same on every rank of `size`; what each has returned, by rank.
pub fn on_ranks<T: Send>(size: usize, work: impl Fn(&mut dyn Collective) -> T + Sync) -> Vec<T> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Rendezvous {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
    };
    let rank = |rank| {
        let mut tcp = match rank {
            0 => Tcp::host(&listener, size, PATIENCE).unwrap(),
            _ => Tcp::join(World { rank, size }, &at, PATIENCE).unwrap(),
        };
        work(&mut tcp)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..size)
            .map(|number| scope.spawn(move || rank(number)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    })
}

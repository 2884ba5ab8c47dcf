//! Ranks in threads, over the loopback interface.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::Instant;

use super::*;

const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(20),
    start: Duration::from_secs(20),
};

/// A listener for rank 0, and where the others find it.
fn meeting() -> (TcpListener, Rendezvous) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = "127.0.0.1".to_owned();
    (listener, Rendezvous { host, port })
}

/// Does the same on every rank of `size`; what each has returned, by rank.
fn on_all<T: Send>(
    size: usize,
    patience: Patience,
    work: impl Fn(Result<Tcp, RankError>) -> T + Sync,
) -> Vec<T> {
    let (listener, at) = meeting();
    thread::scope(|scope| {
        let rank = |rank| {
            let (listener, at, work) = (&listener, &at, &work);
            scope.spawn(move || {
                work(match rank {
                    0 => Tcp::host(listener, size, patience),
                    _ => Tcp::join(World { rank, size }, at, patience),
                })
            })
        };
        let threads: Vec<_> = (0..size).map(rank).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// What the others see when a process is killed: nothing more is said, and the connections are closed.
fn die(tcp: &Tcp) {
    tcp.inbox.close();
    tcp.inbox.wires().iter().for_each(|wire| wire.close());
}

#[test]
fn bytes_and_values_arrive_as_they_were_sent() {
    let results = on_all(3, PATIENCE, |tcp| {
        let mut tcp = tcp.unwrap();
        let rank = tcp.world().rank;
        let mut values = vec![rank as f32 + 0.1; 100_000];
        let mut sums = Vec::new();
        for from in [0, 1, 2, 1] {
            tcp.collect_values(from, &mut values).unwrap();
            sums.push(values[99_999]);
        }
        let gathered = tcp.gather(format!("from {rank}").as_bytes()).unwrap();
        tcp.barrier().unwrap();
        let mut bytes = format!("by {rank}").into_bytes();
        tcp.broadcast(&mut bytes).unwrap();
        // What is no number, and the sign of zero, must survive too.
        let mut odd =
            [f32::NAN, -0.0, f32::INFINITY].map(|value| if rank == 0 { value } else { 7.0 });
        tcp.broadcast_values(&mut odd).unwrap();
        (sums, gathered, bytes, odd.map(f32::to_bits))
    });
    assert_eq!(results[0].0, [0.1, 1.1, 2.1, 1.1]);
    assert_eq!(results[1].0, [1.1; 4], "values change on rank 0 only");
    assert_eq!(results[0].1, [b"from 0", b"from 1", b"from 2"]);
    assert!(results[1].1.is_empty());
    for (_, _, bytes, odd) in &results {
        assert_eq!(bytes, b"by 0");
        assert_eq!(*odd, [f32::NAN, -0.0, f32::INFINITY].map(f32::to_bits));
    }
}

#[test]
fn a_rank_that_is_gone_is_named_on_every_other() {
    let connected = Barrier::new(3);
    let errors = on_all(3, PATIENCE, |tcp| {
        let mut tcp = tcp.unwrap();
        connected.wait();
        if tcp.world().rank == 1 {
            die(&tcp);
            return None;
        }
        let start = Instant::now();
        let error = tcp.barrier().unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(5));
        Some(error.to_string())
    });
    let expected = Some("rank 1 is lost: its connection was closed".to_owned());
    assert_eq!((&errors[0], &errors[2]), (&expected, &expected));
}

#[test]
fn a_lost_rank_0_is_named_by_all() {
    let connected = Barrier::new(3);
    let errors = on_all(3, PATIENCE, |tcp| {
        let mut tcp = tcp.unwrap();
        connected.wait();
        if tcp.world().rank == 0 {
            die(&tcp);
            return "".to_owned();
        }
        tcp.broadcast(&mut Vec::new()).unwrap_err().to_string()
    });
    let expected = "rank 0 is lost: its connection was closed";
    assert_eq!(errors[1..], [expected, expected]);
}

#[test]
fn silence_is_noticed_and_a_rank_that_computes_is_not_silent() {
    let patience = Patience {
        // Long enough for a busy machine to let a thread send its sign of life.
        silence: Duration::from_millis(1500),
        ..PATIENCE
    };
    on_all(2, patience, |tcp| {
        let mut tcp = tcp.unwrap();
        if tcp.world().rank == 1 {
            thread::sleep(Duration::from_millis(2500));
        }
        tcp.barrier().unwrap();
    });
    // A rank that greets and then hangs, as one that was stopped.
    let (listener, at) = meeting();
    let hanging = thread::spawn(move || {
        let world = World { rank: 1, size: 2 };
        let stream = rendezvous::find_first(world, &at, patience).unwrap();
        thread::sleep(Duration::from_secs(3));
        drop(stream);
    });
    let mut tcp = Tcp::host(&listener, 2, patience).unwrap();
    let error = tcp.barrier().unwrap_err();
    assert_eq!(
        error.to_string(),
        "rank 1 is lost: nothing was heard of it for 1.5s"
    );
    drop(tcp);
    hanging.join().unwrap();
}

#[test]
fn why_a_rank_gives_up_is_known_to_all() {
    let connected = Barrier::new(3);
    let errors = on_all(3, PATIENCE, |tcp| {
        let mut tcp = tcp.unwrap();
        let rank = tcp.world().rank;
        connected.wait();
        if rank == 2 {
            let message = "the disk is full".to_owned();
            tcp.give_up(&RankError::Failed { rank, message });
            return "".to_owned();
        }
        tcp.barrier().unwrap_err().to_string()
    });
    let expected = "rank 2 has stopped: the disk is full";
    assert_eq!(errors[..2], [expected, expected]);
}

#[test]
fn one_that_ends_too_early_is_missed_only_where_it_is_needed() {
    on_all(2, PATIENCE, |tcp| {
        let mut tcp = tcp.unwrap();
        tcp.broadcast(&mut vec![1]).unwrap();
        if tcp.world().rank == 1 {
            return;
        }
        let error = tcp.collect(1, &mut Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rank 1 is lost: it has ended before the run"
        );
    });
}

/// As a rank that waits for something else than a message: it asks again and again, and never waits.
#[test]
fn who_asks_without_waiting_hears_of_a_loss_too() {
    let (connected, dies) = (Barrier::new(3), [true, false]);
    for dies in dies {
        let errors = on_all(3, PATIENCE, |tcp| {
            let mut tcp = tcp.unwrap();
            assert_eq!(tcp.failure(), None);
            connected.wait();
            if tcp.world().rank == 1 {
                // Else it is dropped, and says good-bye.
                if dies {
                    die(&tcp);
                }
                return None;
            }
            let start = Instant::now();
            loop {
                if let Some(failure) = tcp.failure() {
                    tcp.give_up(&failure); // as training does, so that rank 2 hears of it
                    return Some(failure.to_string());
                }
                assert!(start.elapsed() < Duration::from_secs(5));
                thread::sleep(Duration::from_millis(1));
            }
        });
        let reason = match dies {
            true => "its connection was closed",
            false => "it has ended before the run",
        };
        let expected = Some(format!("rank 1 is lost: {reason}"));
        assert_eq!((&errors[0], &errors[2]), (&expected, &expected));
    }
}

/// In f32 another order gives another sum: `1e8 + 1 - 1e8` is 0, and `1e8 - 1e8 + 1` is 1.
#[test]
fn values_are_summed_in_the_order_of_the_ranks() {
    let sums = on_all(4, PATIENCE, |tcp| {
        let mut tcp = tcp.unwrap();
        let rank = tcp.world().rank;
        let mut values = [[1e8, 1.0, -1e8, 0.5][rank], rank as f32];
        tcp.sum_values(&mut values).unwrap();
        values
    });
    assert_eq!(sums, [[0.5, 6.0]; 4]);
}

#[test]
fn who_does_not_belong_is_refused_by_name() {
    let (listener, at) = meeting();
    let other = World { rank: 1, size: 3 };
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| Tcp::host(&listener, 2, PATIENCE).err());
        let second = Tcp::join(other, &at, PATIENCE).err();
        (first.join().unwrap(), second)
    });
    let expected = "rank 1 cannot take part: it was started as one of 3, rank 0 as one of 2";
    assert_eq!(first.unwrap().to_string(), expected);
    assert_eq!(second.unwrap().to_string(), expected);
}

#[test]
fn two_of_the_same_rank_are_refused() {
    let (listener, at) = meeting();
    let world = World { rank: 1, size: 3 };
    thread::scope(|scope| {
        let first = scope.spawn(|| Tcp::host(&listener, 3, PATIENCE).err());
        let mut one = Tcp::join(world, &at, PATIENCE).unwrap();
        let error = Tcp::join(world, &at, PATIENCE).err().unwrap();
        let expected = "rank 1 cannot take part: there is one already";
        assert_eq!(error.to_string(), expected);
        assert_eq!(first.join().unwrap().unwrap().to_string(), expected);
        let error = one.broadcast(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    });
}

#[test]
fn a_stranger_at_the_port_changes_nothing() {
    let (listener, at) = meeting();
    let mut stranger = TcpStream::connect((at.host.as_str(), at.port)).unwrap();
    stranger
        .write_all(b"GET / HTTP/1.1\r\nHost: rank0\r\n\r\n")
        .unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| Tcp::host(&listener, 2, PATIENCE).unwrap().barrier());
        let mut second = Tcp::join(World { rank: 1, size: 2 }, &at, PATIENCE).unwrap();
        second.barrier().unwrap();
        first.join().unwrap().unwrap();
    });
}

#[test]
fn who_does_not_come_is_named() {
    let impatient = Patience {
        start: Duration::from_millis(100),
        ..PATIENCE
    };
    let (listener, at) = meeting();
    let error = Tcp::host(&listener, 3, impatient).err().unwrap();
    assert_eq!(
        error.to_string(),
        "ranks 1, 2 have not connected to rank 0 within 0 s"
    );
    drop(listener);
    let error = Tcp::join(World { rank: 1, size: 2 }, &at, impatient).err();
    let said = error.unwrap().to_string();
    assert!(
        said.starts_with("rank 1 has found no rank 0 at 127.0.0.1:"),
        "{said}"
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let (_listener, at) = meeting();
    let error = rendezvous::listen(&at).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("rank 0 cannot listen at {at}: ")),
        "{error}"
    );
    // Found by a rank, a program that is none of ours is told from rank 0.
    let (listener, at) = meeting();
    let other = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(b"220 mail.example ESMTP, at your service\r\n")
            .unwrap();
    });
    let error = Tcp::join(World { rank: 1, size: 2 }, &at, PATIENCE).err();
    let said = error.unwrap().to_string();
    assert!(said.ends_with("another program listens there"), "{said}");
    other.join().unwrap();
}

//! Ctrl-C and SIGTERM while a run trains: the step in hand is finished and a checkpoint written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use crate::output::talk;

/// A SIGINT this soon after the first signal is the same wish: a terminal and a program like `timeout`
/// may both pass one on.
const SAME_WISH: Duration = Duration::from_millis(500);

/// Signals that ask a run to end.
#[derive(Debug)]
pub struct StopSignals {
    stop: Arc<AtomicBool>,
    /// The first one; 0 before it.
    signal: Arc<AtomicI32>,
}

impl StopSignals {
    /// Listens until the program ends. The first SIGINT or SIGTERM sets [`Self::flag`]; a SIGINT after
    /// that ends the program at once. A second SIGTERM does not: job schedulers send several.
    ///
    /// # Errors
    /// When the system does not let us listen.
    pub fn listen() -> anyhow::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
        let (stop, signal) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicI32::new(0)),
        );
        let listening = Self {
            stop: stop.clone(),
            signal: signal.clone(),
        };
        thread::spawn(move || {
            let mut first: Option<Instant> = None;
            for received in signals.forever() {
                match first {
                    None => {
                        first = Some(Instant::now());
                        signal.store(received, Ordering::Relaxed);
                        stop.store(true, Ordering::Release);
                        talk("stopping after this step, with a checkpoint; Ctrl-C ends at once");
                    }
                    Some(first) if received == SIGINT && first.elapsed() > SAME_WISH => {
                        emulate_default_handler(received).ok(); // it ends the program
                    }
                    Some(_) => {}
                }
            }
        });
        Ok(listening)
    }

    /// Set once a signal has come.
    pub fn flag(&self) -> &AtomicBool {
        &self.stop
    }

    /// The first signal's name and the exit code that shells and job schedulers know for it. Where none
    /// has come here, another rank has had one, which as a rule is the scheduler's SIGTERM.
    pub fn received(&self) -> (&'static str, u8) {
        let (signal, name) = match self.signal.load(Ordering::Relaxed) {
            0 => (SIGTERM, "a signal to another rank"),
            signal => (signal, signal_name(signal).unwrap_or("a signal")),
        };
        (name, u8::try_from(128 + signal).unwrap_or(u8::MAX))
    }
}

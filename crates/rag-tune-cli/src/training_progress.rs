//! What is seen of a run while it trains: a bar on a terminal, else a line from time to time.

use std::time::{Duration, Instant};

use rag_tune_train::event::Event;
use rag_tune_train::metrics::StepRecord;
use rag_tune_train::tensorboard::TensorBoard;

use crate::forecast::duration;
use crate::output::{Output, Progress, stderr_is_terminal};

/// Lines that a whole run says where there is no bar.
const LINES: usize = 40;

/// Share of the last step in the smoothed figures: they look back about twenty steps.
const LAST_SHARE: f64 = 0.1;

/// Shows a run's events.
pub struct TrainingProgress<'a> {
    out: &'a Output,
    bar: Progress,
    has_bar: bool,
    total: usize,
    start: Instant,
    /// Steps that were done before this process began.
    before: usize,
    average: Average,
    board: Option<TensorBoard>,
}

impl<'a> TrainingProgress<'a> {
    /// For a run of `total` steps; `board` gets all events too.
    pub fn new(out: &'a Output, total: usize, board: Option<TensorBoard>) -> Self {
        let bar = out.progress();
        bar.start("training", total as u64);
        Self {
            out,
            bar,
            has_bar: stderr_is_terminal(),
            total,
            start: Instant::now(),
            before: 0,
            average: Average::default(),
            board,
        }
    }

    /// Shows an event.
    pub fn show(&mut self, event: Event<'_>) {
        // A curve that cannot be written is no reason to end a run of hours.
        if let Some(Err(error)) = self.board.as_mut().map(|board| board.observe(event)) {
            self.board = None;
            self.out
                .note(&format!("no further TensorBoard events: {error}"));
        }
        match event {
            Event::Resumed { step } => {
                self.before = step;
                self.bar.move_to(step as u64);
                self.out.note(&format!("going on after step {step}"));
            }
            Event::CheckpointRefused { path, reason } => self.out.note(&format!(
                "checkpoint `{}` is not used: {reason}",
                path.display()
            )),
            Event::SharedDevice { ranks, device } => self.out.note(&format!(
                "ranks {ranks:?} share one GPU ({device}) and wait for each other there: start a rank per GPU, with \
                 `model.device = \"auto\"`"
            )),
            Event::SumsThroughHost { why } => self.out.note(&format!(
                "gradients go from GPU to GPU through host memory and TCP, which is slow, and not through NCCL: {why}"
            )),
            Event::Step(record) => self.step(record),
            Event::Skipped(step) => {
                self.bar.move_to(step.step as u64);
                self.out.note(&format!("skipped {step}"));
            }
            Event::Divided { step, tokens } => self.out.note(&format!(
                "the device's memory is not enough for whole micro-batches: since step {step} they go through it in parts of at \
                 most {tokens} tokens; a step is made of the same rows, its sum differs in last bits. \
                 `train.tokens_per_micro_batch = {tokens}` does so from the start"
            )),
            Event::Validated(record) => {
                let interval = record
                    .ci95
                    .map(|[low, high]| format!(" ({low:.3} to {high:.3})"));
                self.out.note(&format!(
                    "step {}: {} on {} rows {:.4}{}{}",
                    record.step,
                    record.metric,
                    record.rows,
                    record.value,
                    interval.unwrap_or_default(),
                    if record.best { ", the best so far" } else { "" }
                ));
            }
            Event::StoppedEarly { step, best } => self.out.note(&format!(
                "stopped early after step {step}: no improvement since the {:.4} of step {}",
                best.value, best.step
            )),
            _ => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish();
    }

    fn step(&mut self, record: &StepRecord) {
        self.average.add(record);
        let figures = self.average.in_words(record);
        if self.has_bar {
            self.bar.say(&format!("training, {figures}"));
            self.bar.move_to(record.step as u64);
        } else if is_told(record.step, self.before, self.total) {
            let done = record.step - self.before;
            let left = self.start.elapsed() / done as u32 * (self.total - record.step) as u32;
            self.out
                .note(&line(record.step, self.total, &figures, left));
        }
    }
}

/// Whether a step has a line: the first, the last, and some in between.
fn is_told(step: usize, before: usize, total: usize) -> bool {
    step == before + 1 || step == total || step.is_multiple_of(total.div_ceil(LINES))
}

fn line(step: usize, total: usize, figures: &str, left: Duration) -> String {
    let width = total.to_string().len();
    let left = if step == total {
        String::new()
    } else {
        format!(", {} left", duration(left.as_secs_f64()))
    };
    format!("step {step:>width$}/{total}: {figures}{left}")
}

/// Figures smoothed over steps; each is a sum in which older steps fade.
#[derive(Debug, Default)]
struct Average {
    /// Of the shares: below 1 at the start.
    weight: f64,
    loss: f64,
    seconds: f64,
    tokens: f64,
    supervised_tokens: f64,
    /// Seconds at the machine's peak.
    peak_seconds: f64,
}

impl Average {
    fn add(&mut self, record: &StepRecord) {
        let add = |sum: &mut f64, value: f64| *sum += LAST_SHARE * (value - *sum);
        add(&mut self.weight, 1.0);
        add(&mut self.loss, record.loss);
        add(&mut self.seconds, record.seconds);
        add(&mut self.tokens, record.tokens as f64);
        add(&mut self.supervised_tokens, record.supervised_tokens as f64);
        add(&mut self.peak_seconds, record.peak_share * record.seconds);
    }

    fn in_words(&self, last: &StepRecord) -> String {
        format!(
            "loss {:.3} (smoothed {:.3}), lr {:.2e}, grad norm {:.2}, {:.0} tokens/s ({:.0} supervised), {:.0} % of peak",
            last.loss,
            self.loss / self.weight,
            last.lr,
            last.grad_norm,
            self.tokens / self.seconds,
            self.supervised_tokens / self.seconds,
            100.0 * self.peak_seconds / self.seconds,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: usize, loss: f64, seconds: f64) -> StepRecord {
        StepRecord {
            step,
            epoch: 0.0,
            loss,
            grad_norm: 0.25,
            lr: 3e-4,
            tokens: 1000,
            supervised_tokens: 200,
            seconds,
            tokens_per_s: 1000.0 / seconds,
            supervised_tokens_per_s: 200.0 / seconds,
            micro_batches: 1,
            peak_share: 0.5,
            peak_rss_bytes: None,
        }
    }

    #[test]
    fn a_run_of_any_length_says_some_forty_lines() {
        for total in [1, 7, 40, 248, 600, 100_000] {
            let told = (1..=total).filter(|step| is_told(*step, 0, total)).count();
            assert!(
                told >= total.min(20) && told <= LINES + 2,
                "{total}: {told}"
            );
        }
        assert!(is_told(51, 50, 600), "the first after a resume");
    }

    #[test]
    fn figures_are_smoothed_from_the_first_step_on() {
        let mut average = Average::default();
        average.add(&record(1, 2.0, 1.0));
        assert_eq!(
            average.in_words(&record(1, 2.0, 1.0)),
            "loss 2.000 (smoothed 2.000), lr 3.00e-4, grad norm 0.25, 1000 tokens/s (200 supervised), 50 % of peak"
        );
        // A slow step counts by its time, not by its speed.
        average.add(&record(2, 1.0, 3.0));
        let text = average.in_words(&record(2, 1.0, 3.0));
        assert!(text.starts_with("loss 1.000 (smoothed 1.474)"), "{text}");
        assert!(text.contains("487 tokens/s"), "{text}");
    }

    #[test]
    fn a_line_says_what_is_left() {
        let left = Duration::from_secs(600);
        assert_eq!(
            line(7, 248, "loss 1", left),
            "step   7/248: loss 1, 10 min left"
        );
        assert_eq!(line(248, 248, "loss 1", left), "step 248/248: loss 1");
    }
}

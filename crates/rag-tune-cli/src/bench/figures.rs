//! What a timing has found: one line of JSON, or a short table.

use rag_tune_kernels::cuda::Device;
use rag_tune_train::memory::peak_rss_bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::timing::Laps;
use crate::output::{Output, table};

/// Named figures in their order.
#[derive(Debug, Default)]
pub struct Figures(Map<String, Value>);

/// A column of the table: its heading, the figure, and the factor and decimals that it is shown with.
pub struct Column {
    heading: &'static str,
    name: &'static str,
    factor: f64,
    decimals: usize,
}

impl Column {
    /// A figure as it is.
    pub const fn new(heading: &'static str, name: &'static str, decimals: usize) -> Self {
        Self {
            heading,
            name,
            factor: 1.0,
            decimals,
        }
    }

    /// A figure times `factor`.
    pub const fn times(self, factor: f64) -> Self {
        Self { factor, ..self }
    }

    /// A share, in per cent.
    pub const fn share(heading: &'static str, name: &'static str) -> Self {
        Self::new(heading, name, 1).times(100.0)
    }
}

impl Figures {
    /// Adds what is no measured number.
    pub fn say(mut self, name: &str, value: impl Serialize) -> Self {
        self.0.insert(name.to_owned(), json!(value));
        self
    }

    /// Adds a measured number, or null where it is not known. Digits that no repetition would show again are left out.
    pub fn measured(mut self, name: &str, value: impl Into<Option<f64>>) -> Self {
        let value = value.into().filter(|value| value.is_finite());
        self.0.insert(name.to_owned(), json!(value.map(rounded)));
        self
    }

    /// Adds how long a step takes.
    pub fn with_laps(self, laps: &Laps) -> Self {
        self.measured("step_s", laps.step_s())
            .measured("cpu_s", laps.cpu_s())
            .samples("step_samples_s", laps.seconds())
    }

    /// Adds each of the times that a median is of.
    pub fn samples(self, name: &str, seconds: &[f64]) -> Self {
        let seconds: Vec<f64> = seconds.iter().copied().map(rounded).collect();
        self.say(name, seconds)
    }

    /// Adds the most memory that the program has held so far, and a device's if it has used one.
    pub fn with_memory(self, device: Option<&Device>) -> Self {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        // What was ever in use stays with the process: what is not free now is the most that was held, by other programs too.
        let memory = device.and_then(|device| device.memory().ok());
        let held = memory.map(|memory| (memory.total_bytes - memory.free_bytes) as u64);
        self.measured("peak_rss_mib", peak_rss_bytes().map(mib))
            .measured("peak_gpu_mib", held.map(mib))
    }

    /// Prints one line of JSON, or the named columns.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn print(&self, as_json: bool, columns: &[Column], out: &mut Output) -> anyhow::Result<()> {
        let text = match as_json {
            true => serde_json::to_string(&self.0)? + "\n",
            false => self.table(columns),
        };
        out.data(&text)?;
        Ok(())
    }

    fn table(&self, columns: &[Column]) -> String {
        let headings: Vec<&str> = columns.iter().map(|column| column.heading).collect();
        let cell = |column: &Column| match &self.0[column.name] {
            Value::Number(number) => {
                let value = number.as_f64().unwrap_or(f64::NAN) * column.factor;
                format!("{value:.*}", column.decimals)
            }
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        table(&headings, &[columns.iter().map(cell).collect()])
    }
}

/// To four significant digits. Through text: only so is the result the number that is nearest to what is printed.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures::default()
            .say("work", "train")
            .measured("tokens_per_s", 505.049_97)
            .measured("share_of_peak", 0.573_49)
            .measured("peak_rss_mib", None)
    }

    #[test]
    fn json_keeps_order_and_nulls() {
        let line = serde_json::to_string(&figures().0).unwrap();
        let expected =
            r#"{"work":"train","tokens_per_s":505.0,"share_of_peak":0.5735,"peak_rss_mib":null}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn people_get_a_table() {
        let columns = [
            Column::new("work", "work", 0),
            Column::new("tokens/s", "tokens_per_s", 0),
            Column::share("% of peak", "share_of_peak"),
            Column::new("peak RSS MiB", "peak_rss_mib", 0),
        ];
        let text = figures().table(&columns);
        let expected = "work   tokens/s  % of peak  peak RSS MiB\ntrain  505       57.4       -\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn numbers_keep_four_digits() {
        let numbers = [0.0, 123_456_789.0, 0.000_123_456, -4.055_55].map(rounded);
        assert_eq!(numbers, [0.0, 123_500_000.0, 0.000_123_5, -4.056]);
    }
}

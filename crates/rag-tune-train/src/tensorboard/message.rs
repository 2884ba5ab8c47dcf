//! The few messages of tensorboard/compat/proto/{event,summary}.proto that curves need, written by hand.
//!
//! ```text
//! Event      { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; SessionLog session_log = 7; }
//! Summary    { repeated Value value = 1; }    Value { string tag = 1; float simple_value = 2; }
//! SessionLog { SessionStatus status = 1; }    START = 1
//! ```

/// The wire types of protocol buffers.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// An `Event`, encoded.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// What a file begins with.
    pub(super) fn file_version(wall_time: f64) -> Self {
        let mut event = Self::at(wall_time, 0);
        event.bytes_field(3, b"brain.Event:2");
        event
    }

    /// That earlier values of `step` and after it no longer hold.
    pub(super) fn restart(wall_time: f64, step: usize) -> Self {
        let mut session_log = Self::default();
        session_log.varint_field(1, 1);
        let mut event = Self::at(wall_time, step);
        event.bytes_field(7, session_log.bytes());
        event
    }

    /// Points of some curves.
    pub(super) fn scalars(wall_time: f64, step: usize, scalars: &[(&str, f64)]) -> Self {
        let mut summary = Self::default();
        for (tag, number) in scalars {
            let mut value = Self::default();
            value.bytes_field(1, tag.as_bytes());
            value.key(2, FIXED_32);
            value.0.extend((*number as f32).to_le_bytes());
            summary.bytes_field(1, value.bytes());
        }
        let mut event = Self::at(wall_time, step);
        event.bytes_field(5, summary.bytes());
        event
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn at(wall_time: f64, step: usize) -> Self {
        let mut event = Self::default();
        event.key(1, FIXED_64);
        event.0.extend(wall_time.to_le_bytes());
        event.varint_field(2, step as u64);
        event
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn varint_field(&mut self, field: u64, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    fn bytes_field(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    /// Seven bits a byte, the lowest first; the top bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The step of an event; 0 if it has none.
pub(super) fn step_of(event: &[u8]) -> u64 {
    let mut rest = event;
    while let Some(key) = read_varint(&mut rest) {
        let skipped = match key & 7 {
            VARINT => {
                let Some(value) = read_varint(&mut rest) else {
                    break;
                };
                if key >> 3 == 2 {
                    return value;
                }
                0
            }
            FIXED_64 => 8,
            FIXED_32 => 4,
            BYTES => match read_varint(&mut rest) {
                Some(length) => usize::try_from(length).unwrap_or(usize::MAX),
                None => break,
            },
            _ => break,
        };
        rest = rest.get(skipped..).unwrap_or_default();
    }
    0
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `tensorboard.compat.proto.event_pb2.Event(...).SerializeToString().hex()` writes them (tensorboard 2.21).
    #[test]
    fn messages_are_those_of_tensorboard() {
        let hex = |message: &Message| -> String {
            message
                .bytes()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        };
        let scalars = [("train/loss", 1.5), ("train/lr", -0.25)];
        assert_eq!(hex(&Message::scalars(1.7e9, 300, &scalars)), SCALARS);
        assert_eq!(hex(&Message::restart(1.7e9, 51)), RESTART);
    }

    const SCALARS: &str = "0900000040fc54d94110ac022a240a110a0a747261696e2f6c6f7373150000c03f0a0f0a08747261696e2f6c7215000080be";
    const RESTART: &str = "0900000040fc54d94110333a020801";

    #[test]
    fn the_step_is_read_back() {
        for step in [0, 1, 127, 128, 300, 1 << 40] {
            let event = Message::scalars(1.7e9, step, &[("a", 1.0)]);
            assert_eq!(step_of(event.bytes()), step as u64);
        }
        assert_eq!(step_of(Message::file_version(1.7e9).bytes()), 0);
        assert_eq!(step_of(&[0x0a, 0xff]), 0);
    }
}

//! How long work reports where it is, without knowing who draws it.

/// Receives the progress of one piece of work after another.
pub trait Progress: Sync {
    /// A piece of work begins: its name, and how many units it has. It may be within another.
    fn start(&self, what: &str, total: u64);
    /// `n` more units are done. May be called from several threads.
    fn advance(&self, n: u64);
    /// The piece of work that began last has ended.
    fn finish(&self);
}

/// Silence.
impl Progress for () {
    fn start(&self, _what: &str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn finish(&self) {}
}

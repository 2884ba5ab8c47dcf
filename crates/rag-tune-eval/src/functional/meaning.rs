//! What a meaning representation says.

use std::fmt;

/// A function with attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meaning {
    /// What the sentence does: `inform`.
    pub function: String,
    /// What it is about, in the order of the text.
    pub attributes: Vec<Attribute>,
}

/// An attribute with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name: `genres`.
    pub name: String,
    /// Its values in the order of the text; none where the sentence asks for one.
    pub values: Vec<String>,
}

/// As ViGGO writes it: a comma and one space between attributes and between values.
impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.function)?;
        for (i, attribute) in self.attributes.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{attribute}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.name, self.values.join(", "))
    }
}

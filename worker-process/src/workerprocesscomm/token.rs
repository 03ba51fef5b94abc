//! The secret that a master gives to its worker.

use std::fmt;

use rand::Rng as _;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// The secret that a master gives to its worker through a pipe, and shows with every request. Of one process only.
#[derive(Clone, Serialize, Deserialize)]
pub struct Token(String);

impl Token {
    /// A new one: 256 bits.
    pub fn random() -> Self {
        let mut bytes = [0u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether this is it. Takes the same time wherever the first difference is.
    pub fn is(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }

    /// The secret itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

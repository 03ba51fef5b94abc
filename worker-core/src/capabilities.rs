//! What a template may do.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The capabilities in force for a context. Cloning shares the list.
///
/// One rule decides everywhere (template API, section 3.1): `wanted` is held when the list has `*`, or `wanted` itself,
/// or an entry that ends in `:*` and, less its last `*`, begins `wanted`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(Arc<[Box<str>]>);

impl Capabilities {
    /// Whether the capability is held.
    pub fn holds(&self, wanted: &str) -> bool {
        self.0.iter().any(|held| {
            &**held == "*" || &**held == wanted || (held.ends_with(":*") && wanted.starts_with(&held[..held.len() - 1]))
        })
    }

    /// The entries, in the order in which they were given.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|entry| &**entry)
    }
}

impl<S: Into<Box<str>>> FromIterator<S> for Capabilities {
    fn from_iter<I: IntoIterator<Item = S>>(entries: I) -> Self {
        Self(entries.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(list: &[&str], wanted: &str) -> bool {
        Capabilities::from_iter(list.iter().copied()).holds(wanted)
    }

    #[test]
    fn the_rule_of_the_reference() {
        assert!(holds(&["*"], "anything:at:all"));
        assert!(holds(&["discord:*"], "discord:get_guild"));
        assert!(holds(&["datastore:*"], "datastore:TemplateStore:list"));
        assert!(holds(&["kv[a]:*"], "kv[a]:get:k"));
        assert!(holds(&["kv:get:k"], "kv:get:k"));
        assert!(!holds(&["kv:*"], "kv.meta:keys"));
        assert!(!holds(&["discord:get_*"], "discord:get_guild"));
        assert!(holds(&["discord:get_*"], "discord:get_*"));
        assert!(!holds(&["kv[a]:*"], "kv[ab]:get"));
        assert!(!holds(&[], "x"));
        assert!(!holds(&["discord*"], "discord:x"));
        assert!(!holds(&["DISCORD:*"], "discord:x"));
    }
}

//! Which records a context may touch (template API, section 4.2).

use worker_core::Capabilities;
use worker_db::{KvRecord, Scopes};

use crate::error::ApiError;

/// What a capability allows to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Find,
    Exists,
    Get,
    Set,
    SetExpiry,
    Delete,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Exists => "exists",
            Self::Get => "get",
            Self::Set => "set",
            Self::SetExpiry => "setexpiry",
            Self::Delete => "delete",
        }
    }
}

/// The action on the key in these scopes is allowed, or the error that names what is missing.
pub(super) fn check(caps: &Capabilities, action: Action, key: &str, scopes: &Scopes) -> Result<(), ApiError> {
    match missing_scope(caps, action, key, scopes.iter()) {
        None => Ok(()),
        Some(scope) => Err(ApiError::missing_capability(format_args!("kv[{scope}]:{}:{key}", action.as_str()))),
    }
}

/// The action on a record found by its id is allowed. The error does not tell the record's key or scopes: whoever may not
/// touch it need not learn them.
pub(super) fn check_record(caps: &Capabilities, action: Action, record: &KvRecord) -> Result<(), ApiError> {
    match missing_scope(caps, action, &record.key, record.scopes.iter().map(String::as_str)) {
        None => Ok(()),
        Some(_) => {
            let action = action.as_str();
            Err(ApiError::missing_capability(format_args!("kv:{action}:* (or one for the record's key and scopes)")))
        }
    }
}

/// Listing the keys of these scopes is allowed.
pub(super) fn check_keys(caps: &Capabilities, scopes: &Scopes) -> Result<(), ApiError> {
    if caps.holds("kv.meta:keys") {
        return Ok(());
    }
    match not_covered(scopes.iter(), |scope| holds_in(caps, "kv.meta", scope, "keys")) {
        None => Ok(()),
        Some(scope) => Err(ApiError::missing_capability(format_args!("kv.meta[{scope}]:keys"))),
    }
}

fn missing_scope<'a>(
    caps: &Capabilities,
    action: Action,
    key: &str,
    scopes: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let action = action.as_str();
    // `kv:*`, `kv:<action>:*` and `kv[<scope>]:*` hold these by the rule for entries that end in `:*`.
    if caps.holds(&format!("kv:{action}:{key}")) {
        return None;
    }
    let action_on_key = format!("{action}:{key}");
    not_covered(scopes, |scope| holds_in(caps, "kv", scope, action) || holds_in(caps, "kv", scope, &action_on_key))
}

/// Whether `<family>[<scope>]:<what>` is held.
fn holds_in(caps: &Capabilities, family: &str, scope: &str, what: &str) -> bool {
    let wanted = format!("{family}[{scope}]:{what}");
    if !scope.contains(']') {
        return caps.holds(&wanted);
    }
    // `kv[a]:*` begins what is wanted for a scope called `a]:b` as well, but it is not about that scope.
    let everything = format!("{family}[{scope}]:*");
    caps.iter().any(|held| held == "*" || held == wanted || held == everything)
}

/// The first scope that is not allowed. One of digits alone, the id of somebody or something, is only a qualifier: beside
/// a scope that is allowed it needs no capability of its own.
fn not_covered<'a>(scopes: impl Iterator<Item = &'a str>, allowed: impl Fn(&str) -> bool) -> Option<&'a str> {
    let (mut any_allowed, mut first_qualifier) = (false, None);
    for scope in scopes {
        if allowed(scope) {
            any_allowed = true;
        } else if scope.bytes().all(|byte| byte.is_ascii_digit()) {
            first_qualifier = first_qualifier.or(Some(scope));
        } else {
            return Some(scope);
        }
    }
    if any_allowed { None } else { first_qualifier }
}

#[cfg(test)]
mod tests {
    use worker_core::KvLimits;

    use super::*;

    fn allows(caps: &[&str], action: Action, key: &str, scopes: &[&str]) -> bool {
        let caps = caps.iter().copied().collect();
        let scopes = Scopes::new(scopes.iter().copied(), &KvLimits::default()).unwrap();
        check(&caps, action, key, &scopes).is_ok()
    }

    #[test]
    fn the_forms_of_the_reference() {
        for cap in ["*", "kv:*", "kv:get:*", "kv:get:k", "kv[s]:*", "kv[s]:get", "kv[s]:get:k", "kv[s]:get:*"] {
            assert!(allows(&[cap], Action::Get, "k", &["s"]), "{cap}");
        }
        for cap in [
            "",
            "kv",
            "kv:",
            "kv:get",
            "kv:set:k",
            "kv:get:K",
            "kv:get:kk",
            "kv[s]",
            "kv[s]:set",
            "kv[s]:get:",
            "kv[t]:*",
            "kv[]:*",
            "kv[*]:*",
            "kv.meta:*",
            "kv[ss]:*",
            "discord:*",
        ] {
            assert!(!allows(&[cap], Action::Get, "k", &["s"]), "{cap}");
        }
    }

    #[test]
    fn every_scope_needs_it() {
        assert!(!allows(&["kv[a]:*"], Action::Set, "k", &["a", "b"]));
        assert!(allows(&["kv[a]:*", "kv[b]:set"], Action::Set, "k", &["a", "b"]));
        assert!(allows(&["kv:set:k"], Action::Set, "k", &["a", "b"]));
    }

    #[test]
    fn digits_are_a_qualifier_beside_an_allowed_scope() {
        assert!(allows(&["kv[a]:*"], Action::Get, "k", &["a", "123"]));
        assert!(allows(&["kv[a]:*"], Action::Get, "k", &["a", "1", "22"]));
        assert!(!allows(&["kv[a]:*"], Action::Get, "k", &["123"]));
        assert!(!allows(&["kv[a]:*"], Action::Get, "k", &["123", "456"]));
        assert!(!allows(&["kv[a]:*"], Action::Get, "k", &["a", "123x"]));
        assert!(!allows(&["kv[a]:*"], Action::Get, "k", &["a", "-1"]));
        assert!(!allows(&["kv[a]:*"], Action::Get, "k", &["a", "１"]), "digits of other scripts are no id");
        assert!(allows(&["kv[123]:*"], Action::Get, "k", &["123"]));
        assert!(!allows(&["kv[a]:*"], Action::Get, "k", &["b", "123"]));
    }

    #[test]
    fn a_scope_cannot_be_written_so_that_it_reads_as_another() {
        for cap in ["kv[a]:*", "kv[a]:get:*", "kv[a]:get:x"] {
            assert!(!allows(&[cap], Action::Get, "x", &["a]:get"]), "{cap}");
        }
        for cap in ["*", "kv[a]:get]:*", "kv[a]:get]:get", "kv[a]:get]:get:x"] {
            assert!(allows(&[cap], Action::Get, "x", &["a]:get"]), "{cap}");
        }
    }
}

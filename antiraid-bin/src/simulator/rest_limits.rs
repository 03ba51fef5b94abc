//! How often REST may be called: Discord's buckets and its limit for all calls together.

use std::collections::HashMap;

/// The rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestRules {
    /// About Discord's own; the real ones are not published and change.
    #[default]
    Discord,
    /// None: every call is let through.
    Off,
}

/// Calls of a bucket in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    calls: u32,
    window_ms: u64,
}

/// What is told of a bucket with each answer.
#[derive(Clone, Debug, PartialEq)]
pub struct BucketState {
    /// Its name.
    pub bucket: String,
    /// Calls in a stretch.
    pub limit: u32,
    /// Calls that are left of it.
    pub remaining: u32,
    /// When it ends, in milliseconds since the Unix epoch.
    pub reset_ms: u64,
    /// How long that is from now.
    pub reset_after_ms: u64,
}

/// Whether a call may be made.
#[derive(Clone, Debug, PartialEq)]
pub enum Allowed {
    /// It may; the state is told, where there is a bucket.
    Yes(Option<BucketState>),
    /// Not in this bucket, for now.
    NotInBucket(BucketState),
    /// None at all, for so many milliseconds.
    NotAtAll(u64),
}

/// Calls of one bot in a second.
const GLOBAL: Rule = Rule { calls: 50, window_ms: 1_000 };
/// Buckets that are remembered; when there are more, those whose time is over are forgotten.
const BUCKETS_MAX: usize = 4_096;

/// The state of all buckets.
#[derive(Debug)]
pub struct RestLimits {
    rules: RestRules,
    global: (u64, u32),
    buckets: HashMap<String, (u64, u32)>,
}

impl RestLimits {
    /// With nothing used.
    pub fn new(rules: RestRules) -> Self {
        Self { rules, global: (0, 0), buckets: HashMap::new() }
    }

    /// Counts a call.
    pub fn take(&mut self, method: &str, path: &str, now_ms: u64) -> Allowed {
        if self.rules == RestRules::Off {
            return Allowed::Yes(None);
        }
        let (bucket, rule) = bucket(method, path);
        // Answers to interactions count nowhere.
        let Some(rule) = rule else { return Allowed::Yes(None) };
        if self.global.1 == 0 || now_ms >= self.global.0 + GLOBAL.window_ms {
            self.global = (now_ms, 0);
        }
        if self.global.1 >= GLOBAL.calls {
            return Allowed::NotAtAll(self.global.0 + GLOBAL.window_ms - now_ms);
        }
        if self.buckets.len() >= BUCKETS_MAX {
            self.buckets.retain(|_, (begun, _)| *begun + 60_000 > now_ms);
        }
        let (begun, used) = self.buckets.entry(bucket.clone()).or_insert((now_ms, 0));
        if now_ms >= *begun + rule.window_ms {
            (*begun, *used) = (now_ms, 0);
        }
        let is_allowed = *used < rule.calls;
        if is_allowed {
            *used += 1;
            self.global.1 += 1;
        }
        let reset_ms = *begun + rule.window_ms;
        let state = BucketState {
            bucket,
            limit: rule.calls,
            remaining: rule.calls - *used,
            reset_ms,
            reset_after_ms: reset_ms - now_ms,
        };
        if is_allowed { Allowed::Yes(Some(state)) } else { Allowed::NotInBucket(state) }
    }
}

/// The bucket of a call: its route, with the guild, channel or webhook that it is about, and no other ids.
fn bucket(method: &str, path: &str) -> (String, Option<Rule>) {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let mut name = method.to_owned();
    for (index, part) in parts.iter().enumerate() {
        let is_major = index == 1 && matches!(parts[0], "channels" | "guilds" | "webhooks")
            || index == 2 && parts[0] == "webhooks";
        let is_emoji = index > 0 && parts[index - 1] == "reactions";
        let is_id = part.bytes().all(|byte| byte.is_ascii_digit()) || part.starts_with('@');
        name.push('/');
        name.push_str(if (is_id || is_emoji) && !is_major { "-" } else { part });
    }
    let rule = |calls, window_ms| Some(Rule { calls, window_ms });
    let rule = match (method, &parts[..]) {
        (_, ["interactions", ..]) => None,
        ("POST" | "PATCH", ["channels", _, "messages", ..]) => rule(5, 5_000),
        ("PUT" | "DELETE", ["channels", _, "messages", _, "reactions", ..]) => rule(1, 250),
        ("DELETE", ["channels", _, "messages", ..]) => rule(5, 1_000),
        (_, ["webhooks", _, _, ..]) => rule(5, 2_000),
        ("PATCH", ["channels", _]) => rule(5, 15_000),
        ("PATCH", ["guilds", _, "members", _]) => rule(10, 10_000),
        ("PUT" | "DELETE", ["guilds", _, "members", _, "roles", _]) => rule(10, 10_000),
        ("GET", _) => rule(30, 5_000),
        _ => rule(10, 5_000),
    };
    (name, rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_a_route_and_what_it_is_about() {
        let of = |path| bucket("POST", path).0;
        assert_eq!(of("/channels/1/messages"), of("/channels/1/messages"));
        assert_ne!(of("/channels/1/messages"), of("/channels/2/messages"));
        assert_eq!(of("/guilds/1/members/5"), of("/guilds/1/members/6"));
        assert_eq!(
            of("/channels/1/messages/2/reactions/%F0%9F%91%8D/@me"),
            of("/channels/1/messages/3/reactions/x:9/@me")
        );
    }

    #[test]
    fn the_sixth_message_waits_until_the_stretch_is_over() {
        let mut limits = RestLimits::new(RestRules::Discord);
        for left in (0..5).rev() {
            match limits.take("POST", "/channels/1/messages", 1_000) {
                Allowed::Yes(Some(state)) => assert_eq!((state.limit, state.remaining), (5, left)),
                other => panic!("{other:?}"),
            }
        }
        match limits.take("POST", "/channels/1/messages", 2_000) {
            Allowed::NotInBucket(state) => assert_eq!((state.reset_ms, state.reset_after_ms), (6_000, 4_000)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(limits.take("POST", "/channels/2/messages", 2_000), Allowed::Yes(_)));
        assert!(matches!(limits.take("POST", "/channels/1/messages", 6_000), Allowed::Yes(_)));
    }

    #[test]
    fn all_calls_together_have_a_limit_that_answers_to_interactions_do_not_have() {
        let mut limits = RestLimits::new(RestRules::Discord);
        for channel in 0..50 {
            assert!(matches!(limits.take("GET", &format!("/channels/{channel}"), 10), Allowed::Yes(_)));
        }
        assert_eq!(limits.take("GET", "/channels/99", 110), Allowed::NotAtAll(900));
        assert_eq!(limits.take("POST", "/interactions/1/t/callback", 110), Allowed::Yes(None));
        assert!(matches!(limits.take("GET", "/channels/99", 1_010), Allowed::Yes(_)));
    }
}

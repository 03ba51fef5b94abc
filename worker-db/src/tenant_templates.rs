//! The templates of one tenant, ready to run, and the index that says which of them an event is for.

use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use smallvec::SmallVec;
use worker_core::{Event, Template, TemplateName};

use crate::BadTemplateRow;

/// The templates of a tenant at one moment. Never changed: a change makes a new one.
#[derive(Debug)]
pub struct TenantTemplates {
    generation: u64,
    templates: Box<[Arc<Template>]>,
    bad: Box<[BadTemplateRow]>,
    subscriptions: SubscriptionIndex,
}

impl TenantTemplates {
    pub(crate) fn new(mut templates: Vec<Arc<Template>>, bad: Vec<BadTemplateRow>) -> Self {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        templates.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Self {
            generation: GENERATION.fetch_add(1, Relaxed),
            subscriptions: SubscriptionIndex::new(&templates),
            templates: templates.into(),
            bad: bad.into(),
        }
    }

    /// A number for exactly these templates: a load that finds anything changed (also if it is only `updated_at`, which
    /// templates can see) has a number that was never used in this process, and one that finds nothing changed since the
    /// tenant was [invalidated](crate::WorkerCacheData::invalidate) has the same again. Tenants without templates of
    /// their own share one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The templates that run, by name; paused ones are not among them.
    pub fn templates(&self) -> &[Arc<Template>] {
        &self.templates
    }

    /// The template of this name, if it runs.
    pub fn get(&self, name: &TemplateName) -> Option<&Arc<Template>> {
        let found = self.templates.binary_search_by(|template| template.name.cmp(name));
        found.ok().map(|index| &self.templates[index])
    }

    /// The rows that could not be loaded, for the tenant's log.
    pub fn bad(&self) -> &[BadTemplateRow] {
        &self.bad
    }

    /// Whether there is no difference but the generation.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.templates == other.templates && self.bad == other.bad
    }

    /// Bytes of all files, also where they are shared with other tenants.
    pub(crate) fn files_bytes(&self) -> usize {
        self.templates.iter().map(|template| template.files.bytes()).sum()
    }

    /// Which templates the event is for. Allocates only beyond [`Indices::inline_size`] of them.
    pub(crate) fn subscribers(&self, event: &Event) -> Indices {
        let mut found = Indices::new();
        let names = [event.name().as_str(), event.base_name().as_str()];
        for name in names {
            found.extend(self.subscriptions.find(&[name]));
            for scope in event.scopes() {
                found.extend(self.subscriptions.find(&[name, "[", scope, "]"]));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Positions in [`TenantTemplates::templates`].
pub(crate) type Indices = SmallVec<[u32; 12]>;

/// The templates that an event is for: never none.
#[derive(Clone, Debug)]
pub struct Subscribers {
    tenant: Rc<TenantTemplates>,
    indices: Indices,
}

impl Subscribers {
    pub(crate) fn new(tenant: Rc<TenantTemplates>, indices: Indices) -> Self {
        Self { tenant, indices }
    }

    /// All templates of the tenant.
    pub fn tenant(&self) -> &Rc<TenantTemplates> {
        &self.tenant
    }

    /// Where in the tenant's [`templates`](TenantTemplates::templates) the subscribers are, in the order of their names.
    pub fn indices(&self) -> impl ExactSizeIterator<Item = usize> {
        self.indices.iter().map(|&index| index as usize)
    }

    /// The subscribers, in the order of their names.
    pub fn templates(&self) -> impl ExactSizeIterator<Item = &Arc<Template>> {
        self.indices().map(|index| &self.tenant.templates[index])
    }
}

/// What the templates of a tenant subscribe to: sorted texts, each with the templates that named it.
///
/// A look-up is a binary search in two small blocks of memory. Texts are compared in parts, so `KeyExpiry[scope]` is
/// found without being put together, and matching is exact whatever characters a scope has.
#[derive(Debug)]
struct SubscriptionIndex {
    /// All texts, one after the other.
    text: Box<str>,
    /// By text, then by template.
    entries: Box<[Entry]>,
}

#[derive(Debug)]
struct Entry {
    start: u32,
    end: u32,
    template: u32,
}

impl SubscriptionIndex {
    fn new(templates: &[Arc<Template>]) -> Self {
        let mut pairs: Vec<(&str, u32)> = (0..)
            .zip(templates)
            .flat_map(|(index, template)| template.events.iter().map(move |event| (&**event, index)))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        let (mut text, mut entries) = (String::new(), Vec::with_capacity(pairs.len()));
        let (mut last, mut start) = (None, 0);
        for (event, template) in pairs {
            if last.replace(event) != Some(event) {
                start = text.len() as u32;
                text.push_str(event);
            }
            entries.push(Entry { start, end: text.len() as u32, template });
        }
        Self { text: text.into(), entries: entries.into() }
    }

    /// The templates that named the text of these parts.
    fn find(&self, parts: &[&str]) -> impl Iterator<Item = u32> {
        let order = |entry: &Entry| compare(&self.text[entry.start as usize..entry.end as usize], parts);
        let first = self.entries.partition_point(|entry| order(entry) == Ordering::Less);
        self.entries[first..]
            .iter()
            .take_while(move |entry| order(entry) == Ordering::Equal)
            .map(|entry| entry.template)
    }
}

/// How the text compares with the parts put together.
fn compare(text: &str, parts: &[&str]) -> Ordering {
    let mut text = text.as_bytes();
    for part in parts {
        let part = part.as_bytes();
        let (head, tail) = text.split_at(text.len().min(part.len()));
        match head.cmp(part) {
            Ordering::Equal => text = tail,
            order => return order,
        }
    }
    if text.is_empty() { Ordering::Equal } else { Ordering::Greater }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_compare_like_the_whole(text in "[a-c\\[\\]]{0,6}", parts in prop::collection::vec("[a-c\\[\\]]{0,3}", 1..5)) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(compare(&text, &parts), text.as_str().cmp(parts.concat().as_str()));
        }
    }
}

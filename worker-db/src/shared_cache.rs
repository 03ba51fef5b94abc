//! What all workers of a process share: code.

use std::collections::HashMap;
use std::sync::Arc;

use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use worker_core::{ContentHash, TemplateFiles};

/// How much a [`SharedCache`] keeps.
#[derive(Clone, Debug)]
pub struct SharedCacheConfig {
    /// Bytes of templates' files. What a worker has loaded lives on beside this.
    pub files_bytes_max: u64,
    /// Bytes of compiled bytecode.
    pub bytecode_bytes_max: u64,
}

impl Default for SharedCacheConfig {
    fn default() -> Self {
        Self { files_bytes_max: 64 << 20, bytecode_bytes_max: 128 << 20 }
    }
}

/// Names compiled code: equal keys are equal source, so nothing here is ever out of date.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BytecodeKey {
    /// The files that the source is one of.
    pub files: ContentHash,
    /// Its path among them.
    pub path: Arc<str>,
}

/// A process-wide cache of templates' files and compiled bytecode. Clones share it.
#[derive(Clone)]
pub struct SharedCache(Arc<Inner>);

struct Inner {
    files: Cache<ContentHash, Arc<TemplateFiles>>,
    bytecode: Cache<BytecodeKey, Arc<[u8]>>,
    compiling: Mutex<HashMap<BytecodeKey, Compile>>,
}

/// A compile under way, and later what came of it.
type Compile = Arc<OnceCell<Arc<[u8]>>>;

const _: () = {
    const fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<SharedCache>();
};

impl SharedCache {
    /// What an entry costs beside its bytes: key, hash table, counters. A round figure, so that a million tiny entries
    /// do not count as nothing.
    const ENTRY_BYTES: usize = 256;

    /// An empty cache.
    pub fn new(config: SharedCacheConfig) -> Self {
        let weight = |bytes: usize| u32::try_from(bytes + Self::ENTRY_BYTES).unwrap_or(u32::MAX);
        Self(Arc::new(Inner {
            files: Cache::builder()
                .max_capacity(config.files_bytes_max)
                .weigher(move |_, files: &Arc<TemplateFiles>| weight(files.bytes()))
                .build(),
            bytecode: Cache::builder()
                .max_capacity(config.bytecode_bytes_max)
                .weigher(move |key: &BytecodeKey, code: &Arc<[u8]>| weight(key.path.len() + code.len()))
                .build(),
            compiling: Mutex::default(),
        }))
    }

    /// Files, if they are kept.
    pub fn files(&self, hash: &ContentHash) -> Option<Arc<TemplateFiles>> {
        self.0.files.get(hash)
    }

    /// Keeps files.
    pub fn insert_files(&self, files: Arc<TemplateFiles>) {
        self.0.files.insert(files.hash(), files);
    }

    /// Compiled code, if it is kept.
    pub fn bytecode(&self, key: &BytecodeKey) -> Option<Arc<[u8]>> {
        self.0.bytecode.get(key)
    }

    /// Drops now what is beyond the bounds, rather than soon.
    pub fn run_pending_tasks(&self) {
        self.0.files.run_pending_tasks();
        self.0.bytecode.run_pending_tasks();
    }

    /// Compiled code, made by `compile` unless it is kept or being made: however many ask at once, one compiles. A failure
    /// is given to its caller and not kept; whoever waited tries by itself.
    pub async fn bytecode_or_compile<E, F>(
        &self,
        key: &BytecodeKey,
        compile: impl FnOnce() -> F,
    ) -> Result<Arc<[u8]>, E>
    where
        F: Future<Output = Result<Arc<[u8]>, E>>,
    {
        if let Some(code) = self.bytecode(key) {
            return Ok(code);
        }
        // Declared first, so dropped last: after the cell below.
        let _tidy = Tidy { cache: &self.0, key };
        let cell = self.0.compiling.lock().entry(key.clone()).or_default().clone();
        let code = cell.get_or_try_init(|| async {
            // It may have been made between the look above and the cell.
            if let Some(code) = self.bytecode(key) {
                return Ok(code);
            }
            let code = compile().await?;
            self.0.bytecode.insert(key.clone(), code.clone());
            Ok(code)
        });
        code.await.cloned()
    }
}

/// Takes a cell out of the map when nobody else holds it: done by each who held one, so by the last, also where waiting
/// was cut off.
struct Tidy<'a> {
    cache: &'a Inner,
    key: &'a BytecodeKey,
}

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        let mut compiling = self.cache.compiling.lock();
        if compiling.get(self.key).is_some_and(|cell| Arc::strong_count(cell) == 1) {
            compiling.remove(self.key);
        }
    }
}

//! The objects of all tenants, each in a folder of its own.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use tokio::sync::Mutex;
use worker_core::{ObjectLimits, TenantId};

use super::file_urls::FileUrls;
use super::keys::{self, ObjectKey, Stored};
use crate::plugins::http::{plain_client, tls};
use crate::services::Home;

/// How long a call to the store may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it takes to find that nobody is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Tenants whose use is known; of others it is counted when they write.
const ACCOUNTS_MAX: usize = 4_096;
/// How long a count is believed: meanwhile the tenant may have been another process's for a while.
const COUNT_AGE_MAX: Duration = Duration::from_secs(5 * 60);
/// Objects of one listing: the quota keeps tenants far below.
const LISTED_MAX: usize = 20_000;
/// Bytes of the long keys that are kept at hand.
const LONG_KEYS_BYTES_MAX: usize = 16 << 20;
/// The file with the key of signed URLs, in a store's folder.
const URL_KEY_FILE: &str = "url.key";

/// Where objects are kept.
#[derive(Clone, Debug, Default)]
pub enum ObjectsPlace {
    /// In memory, gone with the process.
    #[default]
    Memory,
    /// In files below this folder.
    Folder(PathBuf),
    /// With a service that speaks S3.
    S3(S3Config),
}

/// A bucket of a service that speaks S3.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// The bucket that all tenants share.
    pub bucket: String,
    /// Where the service is, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// Who we are.
    pub credentials: S3Credentials,
}

/// Who we are to a service that speaks S3.
#[derive(Clone)]
pub struct S3Credentials {
    /// The name of the key.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: String,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// How objects are kept.
#[derive(Clone, Debug, Default)]
pub struct ObjectsConfig {
    /// Where.
    pub place: ObjectsPlace,
}

/// Why the objects of a tenant could not be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectsError {
    /// The folder of the store.
    #[error("opening the folder of objects {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
    /// The settings of the store.
    #[error("setting up the object store")]
    Setup(#[source] object_store::Error),
    /// The store failed.
    #[error("a call to the object store")]
    Store(#[source] object_store::Error),
    /// The store did not answer in time.
    #[error("the object store did not answer in time")]
    TimedOut,
    /// There is no such object.
    #[error("no such object")]
    NotFound,
    /// One object more than the tenant may have.
    #[error("more than {max} objects")]
    TooManyObjects {
        /// The quota.
        max: u64,
    },
    /// More bytes than the tenant may have.
    #[error("more than {max} bytes")]
    TooManyBytes {
        /// The quota.
        max: u64,
    },
    /// More than can be handled at once.
    #[error("more than {max} bytes or entries at once")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// The process is ending.
    #[error("the process is ending")]
    Ending,
}

impl From<object_store::Error> for ObjectsError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound,
            error => Self::Store(error),
        }
    }
}

/// An object of a listing.
pub(super) struct Listed {
    pub(super) key: Box<[u8]>,
    pub(super) size: u64,
    pub(super) last_modified: Option<Timestamp>,
    pub(super) etag: Option<String>,
}

/// The objects of all tenants. Clones share them.
#[derive(Clone)]
pub struct TenantObjects {
    shared: Arc<Shared>,
    home: Home,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    /// Signs URLs, if the store can.
    signer: Option<Arc<AmazonS3>>,
    file_urls: FileUrls,
    accounts: parking_lot::Mutex<HashMap<TenantId, Arc<Account>>>,
    long_keys: parking_lot::Mutex<LongKeys>,
}

/// What a tenant uses. Whoever writes or lists holds it: one of them at a time, so the quota is exact. It is taken out for
/// as long as a write lasts: if that is cut off, it is counted anew.
type Account = Mutex<Option<Usage>>;

#[derive(Clone, Copy, Debug)]
struct Usage {
    objects: u64,
    bytes: u64,
    counted_at: Instant,
}

/// Keys by their hash, as many as there is room for.
#[derive(Default)]
struct LongKeys {
    by_hash: HashMap<String, Box<[u8]>>,
    bytes: usize,
}

impl LongKeys {
    fn remember(&mut self, hash: String, key: &[u8]) {
        if self.bytes + key.len() > LONG_KEYS_BYTES_MAX {
            *self = Self::default();
        }
        if self.by_hash.insert(hash, key.into()).is_none() {
            self.bytes += key.len();
        }
    }
}

impl TenantObjects {
    pub(crate) fn new(config: ObjectsConfig, home: Home) -> Result<Self, ObjectsError> {
        let mut file_urls = None;
        let (store, signer): (Arc<dyn ObjectStore>, _) = match config.place {
            ObjectsPlace::Memory => (Arc::new(InMemory::new()), None),
            ObjectsPlace::Folder(path) => {
                let failed = |source| ObjectsError::Folder { path: path.clone(), source };
                std::fs::create_dir_all(&path).map_err(failed)?;
                file_urls = Some(FileUrls::with_file(&path.join(URL_KEY_FILE)).map_err(failed)?);
                (Arc::new(LocalFileSystem::new_with_prefix(&path).map_err(ObjectsError::Setup)?), None)
            }
            ObjectsPlace::S3(config) => {
                let s3 = Arc::new(s3(config).map_err(ObjectsError::Setup)?);
                (s3.clone(), Some(s3))
            }
        };
        let shared = Shared {
            store,
            signer,
            file_urls: file_urls.unwrap_or_else(FileUrls::random),
            accounts: Default::default(),
            long_keys: Default::default(),
        };
        Ok(Self { shared: Arc::new(shared), home })
    }

    /// Which object a URL is for that `get_file_url` gave out under the HTTP API's, if it is still good. The caller has seen to
    /// it that the path is the one it serves objects under.
    pub fn verify_url(&self, url: &str, now: Timestamp, limits: &ObjectLimits) -> Option<(TenantId, ObjectKey)> {
        self.shared.file_urls.verify(url, now, limits)
    }

    /// An object of at most so many bytes.
    pub async fn read(&self, tenant: TenantId, key: &ObjectKey, bytes_max: u64) -> Result<Bytes, ObjectsError> {
        let place = key.place(tenant);
        self.run(|shared| async move {
            let object = shared.store.get(&place.object).await?;
            if object.meta.size > bytes_max {
                return Err(ObjectsError::TooLarge { max: bytes_max });
            }
            Ok(object.bytes().await?)
        })
        .await
    }

    /// How large an object is.
    pub(super) async fn size(&self, tenant: TenantId, key: &ObjectKey) -> Result<Option<u64>, ObjectsError> {
        let place = key.place(tenant);
        self.run(|shared| async move { shared.size(&place.object).await }).await
    }

    pub(super) async fn list(&self, tenant: TenantId, prefix: Vec<u8>) -> Result<Vec<Listed>, ObjectsError> {
        self.run(|shared| async move { shared.list(tenant, &prefix).await }).await
    }

    /// Writes an object, to the end whoever waits.
    pub(super) async fn write(
        &self,
        tenant: TenantId,
        key: ObjectKey,
        bytes: Bytes,
        limits: ObjectLimits,
    ) -> Result<(), ObjectsError> {
        self.run_to_end(|shared| async move { shared.write(tenant, &key, bytes, &limits).await }).await
    }

    /// Removes an object if it is there, to the end whoever waits.
    pub(super) async fn delete(&self, tenant: TenantId, key: ObjectKey) -> Result<(), ObjectsError> {
        self.run_to_end(|shared| async move { shared.delete(tenant, &key).await }).await
    }

    /// A URL by which anybody reads the object until it expires.
    pub(super) async fn url(
        &self,
        api_url: &str,
        tenant: TenantId,
        key: &ObjectKey,
        expiry: Duration,
    ) -> Result<String, ObjectsError> {
        let Some(signer) = self.shared.signer.clone() else {
            let expires_at = Timestamp::now().saturating_add(expiry).unwrap_or(Timestamp::MAX);
            return Ok(self.shared.file_urls.sign(api_url, tenant, key, expires_at));
        };
        let place = key.place(tenant);
        self.run(|_| async move {
            let url = signer.signed_url(reqwest::Method::GET, &place.object, expiry).await?;
            Ok(url.to_string())
        })
        .await
    }

    async fn run<T, F>(&self, call: impl FnOnce(Arc<Shared>) -> F) -> Result<T, ObjectsError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ObjectsError>> + Send + 'static,
    {
        let call = tokio::time::timeout(CALL_TIMEOUT, call(self.shared.clone()));
        match self.home.run(call).await {
            Ok(done) => done.unwrap_or(Err(ObjectsError::TimedOut)),
            Err(_) => Err(ObjectsError::Ending),
        }
    }

    async fn run_to_end<T, F>(&self, call: impl FnOnce(Arc<Shared>) -> F) -> Result<T, ObjectsError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ObjectsError>> + Send + 'static,
    {
        let call = tokio::time::timeout(CALL_TIMEOUT, call(self.shared.clone()));
        match self.home.run_to_end(call).await {
            Ok(done) => done.unwrap_or(Err(ObjectsError::TimedOut)),
            Err(_) => Err(ObjectsError::Ending),
        }
    }
}

impl fmt::Debug for TenantObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantObjects").field("store", &self.shared.store.to_string()).finish_non_exhaustive()
    }
}

impl Shared {
    fn account(&self, tenant: TenantId) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        if accounts.len() >= ACCOUNTS_MAX && !accounts.contains_key(&tenant) {
            // Those in use stay: two accounts of one tenant would count past each other.
            accounts.retain(|_, account| Arc::strong_count(account) > 1);
        }
        accounts.entry(tenant).or_default().clone()
    }

    async fn size(&self, path: &Path) -> Result<Option<u64>, ObjectsError> {
        match self.store.head(path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The tenant's objects as the store has them.
    async fn stored(&self, tenant: TenantId) -> Result<Vec<(Stored, ObjectMeta)>, ObjectsError> {
        let folder = Path::from(keys::folder(tenant));
        let mut listing = self.store.list(Some(&folder));
        let mut stored = Vec::new();
        while let Some(meta) = listing.try_next().await? {
            match keys::read_path(&meta.location) {
                Stored::Other => {}
                _ if stored.len() >= LISTED_MAX => return Err(ObjectsError::TooLarge { max: LISTED_MAX as u64 }),
                object => stored.push((object, meta)),
            }
        }
        Ok(stored)
    }

    async fn list(&self, tenant: TenantId, prefix: &[u8]) -> Result<Vec<Listed>, ObjectsError> {
        let account = self.account(tenant);
        let _alone = account.lock().await;
        let mut listed = Vec::new();
        for (object, meta) in self.stored(tenant).await? {
            let key = match object {
                Stored::Short(key) => key.into_boxed_slice(),
                Stored::Long(hash) => match self.long_key(tenant, hash).await? {
                    Some(key) => key,
                    None => continue,
                },
                Stored::Other => continue,
            };
            if key.starts_with(prefix) {
                let (seconds, nanos) = (meta.last_modified.timestamp(), meta.last_modified.timestamp_subsec_nanos());
                listed.push(Listed {
                    key,
                    size: meta.size,
                    last_modified: Timestamp::new(seconds, nanos as i32).ok(),
                    etag: meta.e_tag,
                });
            }
        }
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    async fn long_key(&self, tenant: TenantId, hash: String) -> Result<Option<Box<[u8]>>, ObjectsError> {
        if let Some(key) = self.long_keys.lock().by_hash.get(&hash) {
            return Ok(Some(key.clone()));
        }
        let key = match self.store.get(&keys::name_path(tenant, &hash)).await {
            Ok(object) => object.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if keys::hash(&key) != hash {
            return Ok(None);
        }
        self.long_keys.lock().remember(hash, &key);
        Ok(Some(key[..].into()))
    }

    async fn usage(&self, tenant: TenantId) -> Result<Usage, ObjectsError> {
        let (counted_at, stored) = (Instant::now(), self.stored(tenant).await?);
        let bytes = stored.iter().map(|(_, meta)| meta.size).sum();
        Ok(Usage { objects: stored.len() as u64, bytes, counted_at })
    }

    async fn write(
        &self,
        tenant: TenantId,
        key: &ObjectKey,
        bytes: Bytes,
        limits: &ObjectLimits,
    ) -> Result<(), ObjectsError> {
        let account = self.account(tenant);
        let mut slot = account.lock().await;
        let before = match slot.take() {
            Some(usage) if usage.counted_at.elapsed() < COUNT_AGE_MAX => usage,
            _ => self.usage(tenant).await?,
        };
        let place = key.place(tenant);
        let old = self.size(&place.object).await?;
        let after = Usage {
            objects: before.objects + u64::from(old.is_none()),
            bytes: before.bytes.saturating_sub(old.unwrap_or(0)) + bytes.len() as u64,
            ..before
        };
        let refused = if after.objects > limits.objects_max.max(before.objects) {
            Some(ObjectsError::TooManyObjects { max: limits.objects_max })
        } else if after.bytes > limits.bytes_max.max(before.bytes) {
            Some(ObjectsError::TooManyBytes { max: limits.bytes_max })
        } else {
            None
        };
        if let Some(refused) = refused {
            *slot = Some(before);
            return Err(refused);
        }
        if let Some(name) = &place.name {
            // Before the object: one without its key could not be listed.
            self.store.put(name, PutPayload::from(key.as_bytes().to_vec())).await?;
        }
        self.store.put(&place.object, PutPayload::from_bytes(bytes)).await?;
        *slot = Some(after);
        Ok(())
    }

    async fn delete(&self, tenant: TenantId, key: &ObjectKey) -> Result<(), ObjectsError> {
        let account = self.account(tenant);
        let mut slot = account.lock().await;
        let place = key.place(tenant);
        let Some(old) = self.size(&place.object).await? else { return Ok(()) };
        let before = slot.take();
        for path in std::iter::once(&place.object).chain(&place.name) {
            match self.store.delete(path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        *slot = before.map(|before| Usage {
            objects: before.objects.saturating_sub(1),
            bytes: before.bytes.saturating_sub(old),
            ..before
        });
        Ok(())
    }
}

fn s3(config: S3Config) -> Result<AmazonS3, object_store::Error> {
    let retry = RetryConfig { max_retries: 3, retry_timeout: CALL_TIMEOUT / 2, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(config.bucket)
        .with_region(config.region)
        .with_access_key_id(config.credentials.access_key_id)
        .with_secret_access_key(config.credentials.secret_access_key)
        .with_retry(retry)
        .with_http_connector(Connector);
    if let Some(endpoint) = config.endpoint {
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    builder.build()
}

/// Connects by the same TLS as templates' requests.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = plain_client(tls(Vec::new()))
            .no_gzip()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .build()
            .map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(HttpClient::new(client))
    }
}

//! `ctx.ObjectStorage`: the objects of the tenant (template API, section 7).

#![expect(unsafe_code, reason = "Luau's C API")]

mod file_urls;
mod keys;
mod store;

use std::ffi::{CStr, c_int};
use std::rc::{Rc, Weak};
use std::time::Duration;

use worker_core::{RatelimitFamily, TenantId};

pub use self::keys::ObjectKey;
use self::store::Listed;
pub use self::store::{ObjectsConfig, ObjectsError, ObjectsPlace, S3Config, S3Credentials, TenantObjects};
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, Object, tags};
use crate::luau::native::Call;
use crate::luau::stack::{List, Push, PushBox, push_bytes, set_field};
use crate::luau::{ffi, lua_State};
use crate::modules::blob::{BlobBytes, Taken};
use crate::modules::datetime::{DateTime, TimeDelta};
use crate::runtime::context::ContextCore;
use crate::runtime::held::{Counted, Held};
use crate::runtime::vm::Vm;

/// The objects of the tenant, as far as a context's capabilities go.
pub(crate) struct ObjectStorage {
    context: Rc<ContextCore>,
}

impl ObjectStorage {
    pub(crate) fn new(context: Rc<ContextCore>) -> Self {
        Self { context }
    }
}

/// What a call that was allowed works with after it has left the Lua stack.
struct Bucket {
    objects: TenantObjects,
    tenant: TenantId,
    vm: Weak<Vm>,
}

impl Bucket {
    /// The checks before the work: the capability, then the rate limit.
    fn open(call: &Call, method: &str) -> Result<Self, ApiError> {
        let (storage, vm) = (call.object::<ObjectStorage>(1, "self")?, call.vm());
        storage.context.require(&format!("objectstorage:{method}"))?;
        vm.tenant.ratelimits.take(RatelimitFamily::ObjectStorage, method, 1)?;
        Ok(Self { objects: vm.surroundings.state.services().objects().clone(), tenant: vm.tenant.id, vm: vm.weak() })
    }
}

fn key(call: &Call) -> Result<ObjectKey, ApiError> {
    ObjectKey::new(call.bytes(2, "key")?, &call.vm().limits().objects)
        .map_err(|reason| ApiError::invalid_argument(format_args!("key ({reason})")))
}

/// What a tenant did wrong is said in the words of the reference, what the store did wrong goes to the log.
impl From<ObjectsError> for ApiError {
    fn from(error: ObjectsError) -> Self {
        match error {
            ObjectsError::NotFound => Self::not_found("object"),
            ObjectsError::TooManyObjects { max } => Self::quota_exceeded(format_args!("objects (at most {max})")),
            ObjectsError::TooManyBytes { max } => Self::quota_exceeded(format_args!("object bytes (at most {max})")),
            ObjectsError::TooLarge { max } => Self::too_large(format_args!("object (at most {max})")),
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "the object store failed a template's call");
                Self::unavailable("object storage")
            }
        }
    }
}

fn list_files(call: &Call) -> Result<impl Future<Output = Result<Counted<List<File>>, ApiError>> + use<>, ApiError> {
    let prefix = if call.is_nil(2) { &[][..] } else { call.bytes(2, "prefix")? };
    let max = call.vm().limits().objects.key_bytes_max;
    if prefix.len() > max {
        return Err(ApiError::invalid_argument(format_args!("prefix (at most {max} bytes)")));
    }
    let (prefix, bucket) = (prefix.to_vec(), Bucket::open(call, "list_files")?);
    Ok(async move {
        let listed = bucket.objects.list(bucket.tenant, prefix).await?;
        let bytes = listed.iter().map(|file| size_of::<Listed>() + file.key.len() + 64).sum();
        let held = Held::new(bucket.vm, bytes)
            .ok_or_else(|| ApiError::memory("no room for the list within the tenant's memory limit"))?;
        Ok(Counted { value: List(listed.into_iter().map(File).collect()), held })
    })
}

/// Pushes as an entry of `list_files`.
struct File(Listed);

impl Push for File {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: raises if there is no room; each value is stored at once.
        unsafe {
            ffi::lua_rawcheckstack(l, 6);
            ffi::lua_createtable(l, 0, 4);
        }
        push_bytes(l, &self.0.key);
        set_field(l, -2, c"key");
        (self.0.size as f64).push(l);
        set_field(l, -2, c"size");
        if let Some(time) = self.0.last_modified {
            Object(DateTime::utc(time)).push(l);
            set_field(l, -2, c"last_modified");
        }
        if let Some(etag) = self.0.etag {
            etag.push(l);
            set_field(l, -2, c"etag");
        }
        1
    }
}

fn file_exists(call: &Call) -> Result<impl Future<Output = Result<bool, ApiError>> + use<>, ApiError> {
    let (key, bucket) = (key(call)?, Bucket::open(call, "file_exists")?);
    Ok(async move { Ok(bucket.objects.size(bucket.tenant, &key).await?.is_some()) })
}

fn download_file(call: &Call) -> Result<impl Future<Output = Result<BlobBytes, ApiError>> + use<>, ApiError> {
    let (key, bucket) = (key(call)?, Bucket::open(call, "download_file")?);
    let max = (call.vm().memory().limit() / 2) as u64;
    Ok(async move {
        // Counted before it is read. It may be replaced meanwhile, by one that is not larger.
        let size = bucket.objects.size(bucket.tenant, &key).await?.ok_or_else(|| ApiError::not_found("object"))?;
        if size > max {
            return Err(ApiError::too_large(format_args!("object (at most {max} bytes)")));
        }
        let held = Held::new(bucket.vm.clone(), size as usize)
            .ok_or_else(|| ApiError::memory("no room for the object within the tenant's memory limit"))?;
        let bytes = bucket.objects.read(bucket.tenant, &key, size).await?;
        drop(held);
        BlobBytes::new(bucket.vm, bytes)
    })
}

fn get_file_url(call: &Call) -> Result<impl Future<Output = Result<String, ApiError>> + use<>, ApiError> {
    let (key, max) = (key(call)?, call.vm().limits().objects.url_expiry_max);
    let expiry = Duration::try_from(call.object::<TimeDelta>(3, "expiry")?.duration())
        .ok()
        .filter(|time| (Duration::from_secs(1)..=max).contains(time))
        .ok_or_else(|| {
            ApiError::invalid_argument(format_args!("expiry (expected from 1 to {} seconds)", max.as_secs()))
        })?;
    let bucket = Bucket::open(call, "get_file_url")?;
    let api_url = call.vm().surroundings.state.links().api_url.clone();
    Ok(async move { Ok(bucket.objects.url(&api_url, bucket.tenant, &key, expiry).await?) })
}

fn upload_file(call: &Call) -> Result<impl Future<Output = Result<(), ApiError>> + use<>, ApiError> {
    let (key, limits) = (key(call)?, &call.vm().limits().objects);
    let taken = Taken::read(call, 3, "data")?;
    if taken.as_slice().len() > limits.upload_bytes_max {
        return Err(ApiError::too_large(format_args!("data (at most {} bytes)", limits.upload_bytes_max)));
    }
    let bucket = Bucket::open(call, "upload_file")?;
    let (data, limits) = (taken.into_bytes(call.vm().weak())?, limits.clone());
    // The data is counted for as long as it is written, also if the thread that called is closed.
    Ok(super::to_the_end(call, async move {
        bucket.objects.write(bucket.tenant, key, data.bytes().clone(), limits).await?;
        Ok(())
    }))
}

fn delete_file(call: &Call) -> Result<impl Future<Output = Result<(), ApiError>> + use<>, ApiError> {
    let (key, bucket) = (key(call)?, Bucket::open(call, "delete_file")?);
    Ok(async move { Ok(bucket.objects.delete(bucket.tenant, key).await?) })
}

impl Class for ObjectStorage {
    const TAG: c_int = tags::OBJECT_STORAGE;
    const NAME: &'static str = "ObjectStorage";
    const C_NAME: &'static CStr = c"ObjectStorage";
    const HAS_FIELDS: bool = true;

    fn field(&self, call: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        Ok((name == "bucket_name").then(|| Box::new(keys::folder(call.vm().tenant.id)) as _))
    }

    fn register(class: &mut ClassBuilder) {
        class
            .yielding(c"list_files", list_files)
            .yielding(c"file_exists", file_exists)
            .yielding(c"download_file", download_file)
            .yielding(c"get_file_url", get_file_url)
            .yielding(c"upload_file", upload_file)
            .yielding(c"delete_file", delete_file);
    }
}

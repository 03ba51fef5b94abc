//! Every number that bounds a tenant or a worker. Defaults are the template API's.

use std::time::Duration;

use crate::Value;

/// The limits of a worker and of each of its tenants.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Luau heap and native memory of a tenant.
    pub vm_memory_bytes_max: usize,
    /// Luau memory of all VMs of one worker; beyond it idle VMs go, least recently used first.
    pub worker_memory_bytes_max: usize,
    /// A VM that nothing ran in for so long is dropped.
    pub vm_idle_timeout: Duration,
    /// CPU time of one dispatch, all its threads summed.
    pub dispatch_cpu_max: Duration,
    /// CPU time of a background thread for each time that it is resumed.
    pub background_cpu_max: Duration,
    /// How long code that cannot yield (a metamethod, a comparator, a callback of `gsub`) may run in one stretch.
    pub unyielding_cpu_max: Duration,
    /// How long a script runs before others get their turn.
    pub cpu_slice: Duration,
    /// CPU time that a tenant may use in [`tenant_cpu_window`](Self::tenant_cpu_window); beyond it, its threads are put off.
    pub tenant_cpu_max: Duration,
    /// The window of [`tenant_cpu_max`](Self::tenant_cpu_max).
    pub tenant_cpu_window: Duration,
    /// How long the caller of a dispatch waits, in all.
    pub dispatch_timeout: Duration,
    /// How long running code of a VM that was replaced may go on before its threads are closed.
    pub vm_drain_timeout: Duration,
    /// Coroutines of a tenant that are alive.
    pub threads_max: usize,
    /// Lines of a tenant's log.
    pub log_lines_max: usize,
    /// Bytes of a line of a tenant's log; more is cut off.
    pub log_line_bytes_max: usize,
    /// Bytes of all tenants' logs of one worker; beyond it the oldest lines of the longest log go.
    pub logs_bytes_max: usize,
    /// Events of one tenant that wait to be started.
    pub tenant_queue_max: usize,
    /// Events of one worker that wait to be started.
    pub worker_queue_max: usize,
    /// Dispatches of one tenant that have started and not ended.
    pub tenant_dispatches_max: usize,
    /// Limits of records.
    pub kv: KvLimits,
    /// Limits of templates.
    pub templates: TemplateLimits,
    /// Limits of requests to other servers.
    pub http: HttpLimits,
    /// Limits of objects.
    pub objects: ObjectLimits,
    /// Limits of captchas.
    pub captcha: CaptchaLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            vm_memory_bytes_max: 20 << 20,
            worker_memory_bytes_max: 1 << 30,
            vm_idle_timeout: Duration::from_secs(15 * 60),
            dispatch_cpu_max: Duration::from_secs(10),
            background_cpu_max: Duration::from_secs(1),
            unyielding_cpu_max: Duration::from_millis(50),
            cpu_slice: Duration::from_millis(1),
            tenant_cpu_max: Duration::from_secs(30),
            tenant_cpu_window: Duration::from_secs(60),
            dispatch_timeout: Duration::from_secs(60),
            vm_drain_timeout: Duration::from_secs(60),
            threads_max: 10_000,
            log_lines_max: 1_000,
            log_line_bytes_max: 4 << 10,
            logs_bytes_max: 64 << 20,
            tenant_queue_max: 1_024,
            worker_queue_max: 16_384,
            tenant_dispatches_max: 512,
            kv: KvLimits::default(),
            templates: TemplateLimits::default(),
            http: HttpLimits::default(),
            objects: ObjectLimits::default(),
            captcha: CaptchaLimits::default(),
        }
    }
}

/// The limits of a tenant's records (template API, section 4.6).
#[derive(Clone, Debug)]
pub struct KvLimits {
    /// Bytes of a key, at least 1.
    pub key_bytes_max: usize,
    /// Bytes of a value's JSON.
    pub value_bytes_max: usize,
    /// Scopes in a call.
    pub scopes_max: usize,
    /// Bytes of a scope, at least 1.
    pub scope_bytes_max: usize,
    /// Records of a tenant.
    pub rows_max: u64,
    /// Keys, scopes and JSON of a tenant.
    pub bytes_max: u64,
    /// Entries of `list_scopes` and `keys` without options.
    pub list_max: usize,
    /// Entries of a page of `list_scopes` and `keys`.
    pub list_page_max: usize,
    /// Records of `find` without options.
    pub find_max: usize,
    /// Bytes of JSON of `find` without options.
    pub find_bytes_max: usize,
    /// Records of a page of `find`.
    pub find_page_max: usize,
    /// Bytes of JSON after which a page of `find` ends.
    pub find_page_bytes_max: usize,
}

impl Default for KvLimits {
    fn default() -> Self {
        Self {
            key_bytes_max: 512,
            value_bytes_max: 256 << 10,
            scopes_max: 16,
            scope_bytes_max: 512,
            rows_max: 50_000,
            bytes_max: 128 << 20,
            list_max: 10_000,
            list_page_max: 1_000,
            find_max: 5_000,
            find_bytes_max: 8 << 20,
            find_page_max: 500,
            find_page_bytes_max: 2 << 20,
        }
    }
}

/// The limits of a tenant's templates (template API, section 6.2).
#[derive(Clone, Debug)]
pub struct TemplateLimits {
    /// Templates of a tenant.
    pub templates_max: usize,
    /// Bytes of all files of a template.
    pub template_bytes_max: usize,
    /// Files of a template.
    pub files_max: usize,
    /// Bytes of a file.
    pub file_bytes_max: usize,
    /// Bytes of a path.
    pub path_bytes_max: usize,
    /// Events that a template subscribes to.
    pub events_max: usize,
    /// Capabilities of a template.
    pub caps_max: usize,
    /// Bytes of an event or a capability.
    pub entry_bytes_max: usize,
}

impl Default for TemplateLimits {
    fn default() -> Self {
        Self {
            templates_max: 64,
            template_bytes_max: 4 << 20,
            files_max: 1_000,
            file_bytes_max: 1 << 20,
            path_bytes_max: 256,
            events_max: 256,
            caps_max: 256,
            entry_bytes_max: 256,
        }
    }
}

/// The limits of `ctx.HTTPClient` (template API, section 8). A body that is read is bounded by half of
/// [`Limits::vm_memory_bytes_max`].
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// From the beginning of a request to the end of its answer's body.
    pub timeout_max: Duration,
    /// Bytes of a body that is sent.
    pub request_body_bytes_max: usize,
    /// Bytes of a URL.
    pub url_bytes_max: usize,
    /// Headers of a request.
    pub headers_max: usize,
    /// Bytes of the names and values of a request's headers.
    pub header_bytes_max: usize,
    /// Bytes of a body that is read as JSON.
    pub json_bytes_max: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            timeout_max: Duration::from_secs(5),
            request_body_bytes_max: 1 << 20,
            url_bytes_max: 8 << 10,
            headers_max: 64,
            header_bytes_max: 16 << 10,
            json_bytes_max: 4 << 20,
        }
    }
}

/// The limits of a tenant's objects (template API, section 7).
#[derive(Clone, Debug)]
pub struct ObjectLimits {
    /// Bytes of a key, at least 1.
    pub key_bytes_max: usize,
    /// Objects of a tenant.
    pub objects_max: u64,
    /// Bytes of all objects of a tenant.
    pub bytes_max: u64,
    /// Bytes of an object that is sent.
    pub upload_bytes_max: usize,
    /// How long a signed URL is good for, at least a second.
    pub url_expiry_max: Duration,
}

impl Default for ObjectLimits {
    fn default() -> Self {
        Self {
            key_bytes_max: 2_048,
            objects_max: 2_000,
            bytes_max: 256 << 20,
            upload_bytes_max: 512 << 10,
            url_expiry_max: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

/// The limits of `ctx.ImageCaptcha` (template API, section 9).
#[derive(Clone, Debug)]
pub struct CaptchaLimits {
    /// Characters of a text, at least 1.
    pub chars_max: u64,
    /// Filters of an image.
    pub filters_max: usize,
    /// Width and height of an image.
    pub side_max: u64,
    /// Shapes of one filter.
    pub shapes_max: u64,
    /// From the call to the image.
    pub timeout: Duration,
}

impl Default for CaptchaLimits {
    fn default() -> Self {
        Self { chars_max: 10, filters_max: 12, side_max: 512, shapes_max: 500, timeout: Duration::from_secs(3) }
    }
}

const _: () = assert!(Value::DEPTH_MAX < 128, "serde_json stops at 128 levels");

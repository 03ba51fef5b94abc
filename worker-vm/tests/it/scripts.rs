//! The Luau scripts in `tests/luau`: each is a template's `init.luau` that returns `"ok"` or raises.

use worker_core::TenantId;

use crate::harness::{Harness, TENANT};

/// The text of a script.
macro_rules! script {
    ($path:literal) => {
        include_str!(concat!("../luau/", $path, ".luau"))
    };
}
pub(crate) use script;

const CHECK: &str = script!("check");

impl Harness {
    /// Runs a script that must return `"ok"`, in [`TENANT`] and with all capabilities.
    pub(crate) async fn passes(&self, source: &str) {
        self.passes_as(TENANT, &["*"], source, &[]).await;
    }

    /// Runs a script that must return `"ok"`, with more files beside it.
    pub(crate) async fn passes_as(&self, tenant: TenantId, caps: &[&str], source: &str, files: &[(&str, &str)]) {
        self.install_script(tenant, caps, source, files).await;
        self.passes_again(tenant).await;
    }

    pub(crate) async fn install_script(&self, tenant: TenantId, caps: &[&str], source: &str, more: &[(&str, &str)]) {
        let mut files = vec![("init.luau", source), ("check.luau", CHECK)];
        files.extend(more);
        self.install_files(tenant, "script", caps, &files).await;
    }

    /// Sends the tenant's only template another message; it must return `"ok"`.
    pub(crate) async fn passes_again(&self, tenant: TenantId) {
        match self.message(tenant).await {
            Ok(value) => assert_eq!(value, "ok".into()),
            Err(error) => panic!("{error}\n{}", error.traceback.as_deref().unwrap_or_default()),
        }
        assert_eq!(self.log_texts(tenant), Vec::<String>::new(), "nothing goes wrong on the side");
    }
}

//! `ctx.ObjectStorage`, over files and memory.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use worker_core::{Limits, ObjectLimits, RatelimitRules, Value};
use worker_vm::{ObjectsConfig, ObjectsPlace, S3Config, S3Credentials, Services, ServicesConfig};

use crate::harness::{Harness, OTHER, TENANT, on_worker};
use crate::scripts::script;

fn services(place: ObjectsPlace) -> Services {
    Services::new(ServicesConfig { objects: ObjectsConfig { place }, ..ServicesConfig::default() }).unwrap()
}

fn folder(path: &Path) -> Services {
    services(ObjectsPlace::Folder(path.to_owned()))
}

async fn over(services: Services, objects: ObjectLimits) -> Harness {
    let limits = Limits { objects, ..Limits::default() };
    Harness::with_services(limits, RatelimitRules::unlimited(), services).await
}

#[test]
fn every_method_does_what_the_reference_says() {
    on_worker(|| async {
        let dir = tempfile::tempdir().unwrap();
        for services in [folder(&dir.path().join("made/when/needed")), services(ObjectsPlace::Memory)] {
            let h = over(services, ObjectLimits::default()).await;
            h.passes(script!("objects/methods")).await;
        }
    });
}

#[test]
fn arguments_that_cannot_be_are_refused_by_name() {
    on_worker(|| async {
        over(Services::default(), ObjectLimits::default()).await.passes(script!("objects/refused")).await;
    });
}

#[test]
fn every_method_needs_its_capability() {
    on_worker(|| async {
        over(Services::default(), ObjectLimits::default()).await.passes(script!("objects/limited")).await;
    });
}

/// Keys that would lead out of the tenant's folder if anything of them were a path.
#[test]
fn no_key_reaches_another_tenant_or_the_host() {
    on_worker(|| async {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("outside"), "secret").unwrap();
        let h = over(folder(&dir.path().join("objects")), ObjectLimits::default()).await;
        let source = r#"
            local _, ctx = ...
            ctx.ObjectStorage:upload_file("mine", "mine")
            return ctx.ObjectStorage.bucket_name
        "#;
        h.install(TENANT, "script", source).await;
        let Value::Text(bucket) = h.message(TENANT).await.unwrap() else { panic!("a name is a text") };
        let module = format!("return {bucket:?}");
        h.passes_as(OTHER, &["*"], script!("objects/strangers"), &[("bucket.luau", &module)]).await;
        let mut found: Vec<_> =
            walk(dir.path()).into_iter().filter(|path| !path.contains("antiraid.guild.8388608/")).collect();
        found.sort_unstable();
        assert_eq!(found, ["objects/antiraid.guild.4194304/k/mine", "objects/url.key", "outside"]);
        assert_eq!(std::fs::read(dir.path().join("objects/antiraid.guild.4194304/k/mine")).unwrap(), b"mine");
        assert_eq!(std::fs::read(dir.path().join("outside")).unwrap(), b"secret");
    });
}

/// All files below, relative to it.
fn walk(dir: &Path) -> Vec<String> {
    let (mut folders, mut files) = (vec![dir.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files
}

/// Many threads at once, exactly as many as the quota gets in; what is there at the start is counted.
#[test]
fn quotas_are_exact_under_a_race() {
    on_worker(|| async {
        let dir = tempfile::tempdir().unwrap();
        let limits = || ObjectLimits { objects_max: 10, bytes_max: 1_000, ..ObjectLimits::default() };
        let h = over(folder(dir.path()), limits()).await;
        h.install_script(TENANT, &["*"], script!("objects/quota"), &[]).await;
        h.passes_again(TENANT).await;
        // Another tenant has its own, and a new process counts what is there.
        h.passes_as(OTHER, &["*"], script!("objects/quota"), &[]).await;
        let source = r#"
            local _, ctx = ...
            local ok, err = pcall(ctx.ObjectStorage.upload_file, ctx.ObjectStorage, "new", "")
            return if not ok and string.find(err, "^quota_exceeded: objects") then "ok" else tostring(err)
        "#;
        over(folder(dir.path()), limits()).await.assert_ok(source).await;
    });
}

#[test]
fn objects_outlive_the_vm_and_the_process() {
    on_worker(|| async {
        let dir = tempfile::tempdir().unwrap();
        let h = over(folder(dir.path()), ObjectLimits::default()).await;
        h.install(TENANT, "script", r#"local _, ctx = ...; ctx.ObjectStorage:upload_file("k", "kept"); return "ok""#)
            .await;
        assert_eq!(h.message(TENANT).await.unwrap(), "ok".into());
        let source = r#"
            local _, ctx = ...
            return if buffer.tostring(ctx.ObjectStorage:download_file("k"):tobuffer()) == "kept" then "ok" else "lost"
        "#;
        // Installing a template makes a new VM.
        h.assert_ok(source).await;
        over(folder(dir.path()), ObjectLimits::default()).await.assert_ok(source).await;
    });
}

#[test]
fn a_write_goes_on_when_its_thread_is_closed() {
    on_worker(|| async {
        let h = over(Services::default(), ObjectLimits::default()).await;
        let source = r#"
            local _, ctx = ...
            local objects = ctx.ObjectStorage
            for index = 1, 20 do
                task.cancel(task.spawn(objects.upload_file, objects, `k{index}`, "x"))
            end
            while #objects:list_files() < 20 do
                task.wait(0.01)
            end
            return "ok"
        "#;
        h.assert_ok(source).await;
    });
}

#[test]
fn a_signed_url_is_for_one_object_and_expires() {
    on_worker(|| async {
        let dir = tempfile::tempdir().unwrap();
        let services = folder(dir.path());
        let h = over(services.clone(), ObjectLimits::default()).await;
        let source = r#"
            local _, ctx = ...
            local datetime = require("@antiraid/datetime")
            return ctx.ObjectStorage:get_file_url("a/b \xff?&", datetime.timedelta_hours(1))
        "#;
        let Value::Text(url) = h.script(source).await.unwrap() else { panic!("a URL is a text") };
        assert!(url.starts_with("https://api.example/objects/guild:4194304/"), "{url}");
        let (now, limits) = (Timestamp::now(), ObjectLimits::default());
        let verify = |url: &str, at| services.objects().verify_url(url, at, &limits);
        let (tenant, key) = verify(&url, now).unwrap();
        assert_eq!((tenant, key.as_bytes()), (TENANT, &b"a/b \xff?&"[..]));
        assert!(verify(&url, now + Duration::from_secs(3_590)).is_some());
        assert!(verify(&url, now + Duration::from_secs(3_601)).is_none());
        // Another process over the same folder knows it, one over another folder does not.
        assert!(folder(dir.path()).objects().verify_url(&url, now, &limits).is_some());
        assert!(Services::default().objects().verify_url(&url, now, &limits).is_none());
        for (from, to) in [
            ("guild:4194304", "guild:8388608"),
            ("guild:", "user:"),
            ("?expires=1", "?expires=2"),
            ("signature=", "signature=A"),
            ("objects/", "objects/x/"),
        ] {
            let changed = url.replacen(from, to, 1);
            assert_ne!(changed, url);
            // A longer way to the same object is the API's to refuse.
            assert_eq!(verify(&changed, now).is_some(), from == "objects/", "{changed}");
        }
        for cut in 0..url.len() {
            assert!(verify(&url[..cut], now).is_none());
        }
    });
}

#[test]
fn s3_signs_its_own_urls_and_is_unavailable_when_nobody_is_there() {
    on_worker(|| async {
        // A port that was free a moment ago.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let credentials = S3Credentials { access_key_id: "me".into(), secret_access_key: "sesame".into() };
        assert!(!format!("{credentials:?}").contains("sesame"));
        let s3 = S3Config {
            bucket: "bucket".into(),
            endpoint: Some(format!("http://{closed}")),
            region: "eu-west-1".into(),
            credentials,
        };
        let h = over(services(ObjectsPlace::S3(s3)), ObjectLimits::default()).await;
        let source = r#"
            local _, ctx = ...
            local datetime = require("@antiraid/datetime")
            return ctx.ObjectStorage:get_file_url("a/b", datetime.timedelta_seconds(90))
        "#;
        let Value::Text(url) = h.script(source).await.unwrap() else { panic!("a URL is a text") };
        assert!(url.starts_with(&format!("http://{closed}/bucket/antiraid.guild.4194304/k/")), "{url}");
        assert!(
            url.contains("X-Amz-Expires=90") && url.contains("X-Amz-Signature=") && !url.contains("sesame"),
            "{url}"
        );
        let source = r#"local _, ctx = ...; ctx.ObjectStorage:file_exists("k")"#;
        assert_eq!(h.error(source).await, "unavailable: object storage");
    });
}

//! `ctx.ObjectStorage`, over files and memory.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
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

/// Writes that their callers gave up are done or not begun, and counted as what they are.
#[test]
fn quotas_are_exact_when_threads_are_closed() {
    on_worker(|| async {
        let limits = ObjectLimits { objects_max: 20, ..ObjectLimits::default() };
        let h = over(Services::default(), limits).await;
        let source = r#"
            local _, ctx = ...
            local objects = ctx.ObjectStorage
            for round = 1, 5 do
                local threads = {}
                for index = 1, 30 do
                    threads[index] = task.spawn(objects.upload_file, objects, `k{index}`, "x")
                    threads[index + 30] = task.spawn(objects.delete_file, objects, `k{index - 10}`)
                end
                task.wait()
                for _, thread in threads do task.cancel(thread) end
            end
            local refused
            for index = 1, 100 do
                local ok, err = pcall(objects.upload_file, objects, `more{index}`, "x")
                if not ok then refused = err break end
            end
            if not string.find(refused, "^quota_exceeded: objects") then return refused end
            local count = #objects:list_files()
            return if count == 20 then "ok" else `{count} objects`
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

/// A service that speaks as much of S3 as is asked of it, in memory. The bucket is `bucket`.
async fn s3_server() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let objects = Arc::new(Mutex::new(BTreeMap::new()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(s3_request(stream, objects.clone()));
        }
    });
    endpoint
}

async fn s3_request(mut stream: TcpStream, objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let body_at = loop {
        if let Some(at) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8(request[..body_at].to_vec()).unwrap();
    assert!(head.contains("authorization: AWS4-HMAC-SHA256 Credential=me/"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    while request.len() < body_at + length {
        stream.read_buf(&mut request).await?;
    }
    let body = &request[body_at..];
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let plain = |text: &str| text.replace("%3D", "=").replace("%2F", "/");
    let key = plain(path.strip_prefix("/bucket").unwrap().trim_start_matches('/'));
    let (status, length, answer) = {
        let mut objects = objects.lock().unwrap();
        match method {
            "GET" if query.contains("list-type=2") => {
                let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).map(plain).unwrap();
                let now = Timestamp::now();
                let found = objects.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(key, object)| {
                    let size = object.len();
                    format!("<Contents><Key>{key}</Key><LastModified>{now}</LastModified><Size>{size}</Size><ETag>e</ETag></Contents>")
                });
                let xml = format!(
                    "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
                    found.collect::<String>()
                );
                (200, xml.len(), xml.into_bytes())
            }
            "POST" if query == "delete" => {
                let xml = std::str::from_utf8(body).unwrap();
                let mut deleted = String::new();
                for part in xml.split("<Key>").skip(1) {
                    let key = part.split("</Key>").next().unwrap();
                    objects.remove(key);
                    deleted += &format!("<Deleted><Key>{key}</Key></Deleted>");
                }
                let xml = format!("<DeleteResult>{deleted}</DeleteResult>");
                (200, xml.len(), xml.into_bytes())
            }
            "PUT" => {
                objects.insert(key, body.to_vec());
                (200, 0, Vec::new())
            }
            "DELETE" => {
                objects.remove(&key);
                (204, 0, Vec::new())
            }
            "GET" | "HEAD" => match objects.get(&key) {
                Some(object) => (200, object.len(), if method == "GET" { object.clone() } else { Vec::new() }),
                None => (404, 0, Vec::new()),
            },
            other => panic!("nobody asked for {other}"),
        }
    };
    let head = format!(
        "HTTP/1.1 {status} Fine\r\nconnection: close\r\netag: e\r\nlast-modified: Tue, 24 Nov 2026 07:00:00 GMT\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), &answer].concat()).await
}

fn s3(endpoint: String) -> Services {
    let credentials = S3Credentials { access_key_id: "me".into(), secret_access_key: "sesame".into() };
    let region = "eu-west-1".into();
    services(ObjectsPlace::S3(S3Config { bucket: "bucket".into(), endpoint: Some(endpoint), region, credentials }))
}

#[test]
fn a_bucket_of_s3_does_the_same() {
    on_worker(|| async {
        let limits = ObjectLimits { objects_max: 10, bytes_max: 1_000, ..ObjectLimits::default() };
        let endpoint = s3_server().await;
        over(s3(endpoint.clone()), ObjectLimits::default()).await.passes(script!("objects/methods")).await;
        over(s3(endpoint), limits).await.passes(script!("objects/quota")).await;
    });
}

#[test]
fn s3_signs_its_own_urls_and_is_unavailable_when_nobody_is_there() {
    on_worker(|| async {
        // A port that was free a moment ago.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let credentials = S3Credentials { access_key_id: "me".into(), secret_access_key: "sesame".into() };
        assert!(!format!("{credentials:?}").contains("sesame"));
        let h = over(s3(format!("http://{closed}")), ObjectLimits::default()).await;
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

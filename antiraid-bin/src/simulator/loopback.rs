//! Who may talk to a server on this host: programs on it, and its own pages; no page of another site.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Lets a request through if it names this host by an address that only this host has, and comes from no page of another
/// site. A name of somebody else's that leads here (DNS rebinding) is not such an address.
pub async fn only_from_here(request: Request, next: Next) -> Response {
    match refusal(request.headers()) {
        None => next.run(request).await,
        Some(why) => (StatusCode::FORBIDDEN, why).into_response(),
    }
}

fn refusal(headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    if !is_loopback(host) {
        return Some(
            "this server is for programs on its own host: the address must be 127.0.0.1, [::1] or localhost\n",
        );
    }
    let origin = text(header::ORIGIN);
    if origin.is_some_and(|origin| origin.strip_prefix("http://") != Some(host)) {
        return Some("this server takes no requests of other sites' pages\n");
    }
    // Browsers say so also where they send no `Origin`.
    let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("?"));
    if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Some("this server takes no requests of other sites' pages\n");
    }
    None
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    host.parse::<SocketAddr>()
        .map(|address| address.ip())
        .or_else(|_| name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>())
        .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str, more: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        for (name, value) in more {
            headers.insert(*name, value.parse().unwrap());
        }
        refusal(&headers).is_some()
    }

    #[test]
    fn only_this_host_and_its_own_pages_are_let_in() {
        for host in ["127.0.0.1:80", "127.0.0.1", "localhost:7879", "LOCALHOST", "[::1]:80", "[::1]"] {
            assert!(!refused(host, &[]), "{host}");
        }
        for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1:80", "", "localhost.evil:1"]
        {
            assert!(refused(host, &[]), "{host}");
        }
        assert!(!refused("127.0.0.1:80", &[("origin", "http://127.0.0.1:80")]));
        for origin in ["http://evil.example", "https://127.0.0.1:80", "http://127.0.0.1:81", "null"] {
            assert!(refused("127.0.0.1:80", &[("origin", origin)]), "{origin}");
        }
        assert!(refused("127.0.0.1:80", &[("sec-fetch-site", "cross-site")]));
        assert!(refused("127.0.0.1:80", &[("sec-fetch-site", "same-site")]));
        assert!(!refused("127.0.0.1:80", &[("sec-fetch-site", "same-origin")]));
    }
}

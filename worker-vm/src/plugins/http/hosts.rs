//! Names of hosts, and the addresses that they stand for.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve};

use super::addresses::{AddressRange, is_public};

/// Addresses of a host, later.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Who knows the addresses of hosts. A port of 0 is the scheme's own.
pub trait HostResolver: Send + Sync + 'static {
    /// The addresses of a host.
    fn resolve(&self, host: &str) -> Resolving;
}

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl HostResolver for SystemResolver {
    fn resolve(&self, host: &str) -> Resolving {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
    }
}

/// Asks once for each connection, and gives it the addresses that were checked: who answers differently a moment later has
/// gained nothing.
pub(super) struct CheckedResolver {
    pub(super) resolver: Arc<dyn HostResolver>,
    pub(super) addresses_allowed: Arc<[AddressRange]>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> reqwest::dns::Resolving {
        let answer = self.resolver.resolve(name.as_str());
        let allowed = self.addresses_allowed.clone();
        Box::pin(async move {
            let addresses = answer.await.map_err(|_| Refusal::Unknown)?;
            if addresses.is_empty() {
                return Err(Refusal::Unknown.into());
            }
            // One that is forbidden makes all of them suspect.
            let may = |address: &SocketAddr| {
                is_public(address.ip()) || allowed.iter().any(|range| range.contains(address.ip()))
            };
            if !addresses.iter().all(may) {
                return Err(Refusal::Forbidden.into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Why a name was not turned into addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Unknown,
    Forbidden,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "the host has no address",
            Self::Forbidden => "the host has an address that is not public",
        })
    }
}

impl Error for Refusal {}

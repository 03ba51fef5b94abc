//! `Url`: where a request goes.

use std::ffi::{CStr, c_int};
use std::rc::Weak;

use super::Kept;
use crate::error::ApiError;
use crate::luau::class::{Class, ClassBuilder, tags};
use crate::luau::native::Call;
use crate::luau::stack::PushBox;
use crate::runtime::vm::Vm;

/// A URL as it was parsed, and what parsing forgets.
#[derive(Clone, Debug)]
pub(super) struct Address {
    url: reqwest::Url,
    /// Whether a port or user info was written, even if it says nothing: `https://@host:443`.
    decorated: bool,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let url = reqwest::Url::parse(text).map_err(|error| error.to_string())?;
        // As the parser does: these are left out wherever they stand, and a backslash is a slash.
        let mut kept = text.chars().filter(|c| !matches!(c, '\t' | '\n' | '\r'));
        kept.find(|&c| c == ':');
        let slash = |c: &char| matches!(c, '/' | '\\');
        let mut authority = kept.skip_while(slash).take_while(|c| !slash(c) && !matches!(c, '?' | '#'));
        let decorated = authority.any(|c| matches!(c, ':' | '@'));
        Ok(Self { url, decorated })
    }

    /// The URL.
    pub(super) fn url(&self) -> &reqwest::Url {
        &self.url
    }

    /// The domain name that a request may go to, or why it may not.
    pub(super) fn domain(&self) -> Result<&str, &'static str> {
        if !matches!(self.url.scheme(), "http" | "https") {
            return Err("the scheme must be http or https");
        }
        // In whichever way it is written, an address is none to the parser.
        let domain = self.url.domain().ok_or("the host must be a domain name, not an address")?;
        if domain.ends_with('.') || domain == "localhost" || domain.ends_with(".localhost") {
            return Err("the host must be a public domain name, without a dot at its end");
        }
        if self.decorated
            || self.url.port().is_some()
            || !self.url.username().is_empty()
            || self.url.password().is_some()
        {
            return Err("a port and user info are not allowed");
        }
        Ok(domain)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.url.as_str().len()
    }

    /// Counted in the tenant's memory.
    pub(super) fn keep(self, vm: Weak<Vm>) -> Result<Kept<Self>, ApiError> {
        let bytes = self.bytes();
        Kept::new(vm, self, bytes)
    }
}

/// A template's URL.
pub(super) struct Url(Kept<Address>);

impl Url {
    pub(super) fn new(vm: Weak<Vm>, address: Address) -> Result<Self, ApiError> {
        address.keep(vm).map(Self)
    }

    pub(super) fn address(&self) -> &Address {
        &self.0.value
    }

    /// A text that is a URL.
    pub(super) fn read_text(call: &Call, index: c_int, name: &str) -> Result<Self, ApiError> {
        let text = call.str(index, name)?;
        let max = call.vm().limits().http.url_bytes_max;
        if text.len() > max {
            return Err(ApiError::too_large(format_args!("{name} (at most {max} bytes)")));
        }
        let address =
            Address::parse(text).map_err(|error| ApiError::invalid_argument(format_args!("{name} ({error})")))?;
        Self::new(call.vm().weak(), address)
    }

    /// A text that is a URL, or a Url.
    pub(super) fn read_either(call: &Call, index: c_int, name: &str) -> Result<Kept<Address>, ApiError> {
        match call.object_opt::<Self>(index) {
            Some(url) => url.address().clone().keep(call.vm().weak()),
            None => Self::read_text(call, index, name).map(|url| url.0),
        }
    }
}

impl Class for Url {
    const TAG: c_int = tags::HTTP_URL;
    const NAME: &'static str = "Url";
    const C_NAME: &'static CStr = c"Url";
    const HAS_FIELDS: bool = true;

    fn field(&self, _: &Call, name: &str) -> Result<Option<Box<dyn PushBox>>, ApiError> {
        let url = self.address().url();
        Ok(match name {
            "port" => url.port().map(|port| Box::new(f64::from(port)) as _),
            "host" => text(url.host_str()),
            "scheme" => text(Some(url.scheme())),
            "path" => text(Some(url.path())),
            "query" => text(url.query()),
            "fragment" => text(url.fragment()),
            _ => None,
        })
    }

    fn register(class: &mut ClassBuilder) {
        class
            .meta(c"__tostring", |call: &Call| Ok(call.object::<Self>(1, "self")?.address().url().as_str().to_owned()));
    }
}

fn text(part: Option<&str>) -> Option<Box<dyn PushBox>> {
    part.map(|part| Box::new(part.to_owned()) as _)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_domain_name_is_gone_to() {
        for text in
            ["https://cdn.discordapp.com/a/b?c#d", "HTTP://CDN.DiscordApp.com", "https://cdn.discordapp.com/a:b@c"]
        {
            assert_eq!(Address::parse(text).unwrap().domain(), Ok("cdn.discordapp.com"), "{text}");
        }
        for text in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://127.0.0.1./",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://0/",
            "http://１２７.0.0.1/",
            "http://①②⑦.⓪.⓪.①/",
            "http://127。0。0。1/",
            "http://%31%32%37.0.0.1/",
            "http://localhost/",
            "http://LOCALHOST/",
            "http://ｌocalhost/",
            "http://a.localhost/",
            "http://localhost./",
            "http://cdn.discordapp.com./",
            "https://cdn.discordapp.com:443/",
            "http://cdn.discordapp.com:80/",
            "https://cdn.discordapp.com:8443/",
            "https://cdn.discordapp.com:/",
            "https://user@cdn.discordapp.com/",
            "https://u:p@cdn.discordapp.com/",
            "https://@cdn.discordapp.com/",
            "https://:@cdn.discordapp.com/",
            "https:\\\\cdn.discordapp.com:443\\",
            "https:///cdn.discordapp.com:443/",
            "https:cdn.discordapp.com:443",
            "https://cdn.disc\nordapp.com\t:443/",
            "ht\ttps://@cdn.discordapp.com/",
            "https://cdn.discordapp.com:443?x",
            "https://cdn.discordapp.com:443#x",
            "ftp://cdn.discordapp.com/",
            "file:///etc/passwd",
            "data:text/plain,x",
            "ws://cdn.discordapp.com/",
            "unix:/x",
        ] {
            if let Ok(address) = Address::parse(text) {
                assert!(address.domain().is_err(), "{text} is {:?}", address.domain());
            }
        }
        // What another parser could read as the CDN's is something else, which the list of hosts does not have.
        for text in [
            "https://evil.example\\@cdn.discordapp.com/",
            "https://cdn.discordapp.com.evil.example/",
            "https://cdn.discordapp.com%2eevil.example/",
        ] {
            let address = Address::parse(text).unwrap();
            assert_ne!(address.domain(), Ok("cdn.discordapp.com"), "{text}");
        }
    }
}

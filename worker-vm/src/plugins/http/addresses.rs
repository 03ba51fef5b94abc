//! Which addresses may be connected to (template API, section 8).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that begin with the same bits, written `10.1.0.0/16` or `fd00:1::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    prefix_bits: u8,
}

impl AddressRange {
    /// Whether the address is in it. IPv4 addresses are in IPv4 ranges only.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                (first.to_bits() ^ address.to_bits()).leading_zeros() >= u32::from(self.prefix_bits)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                (first.to_bits() ^ address.to_bits()).leading_zeros() >= u32::from(self.prefix_bits)
            }
            _ => false,
        }
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no range of addresses such as `10.1.0.0/16` or `fd00:1::/32`");
        let (first, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let first: IpAddr = first.parse().map_err(|_| wrong())?;
        let bits_max = if first.is_ipv4() { 32 } else { 128 };
        let prefix_bits = prefix.parse().ok().filter(|bits| *bits <= bits_max).ok_or_else(wrong)?;
        Ok(Self { first, prefix_bits })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

/// Whether the address is of the public internet: not of this host, this network, or nobody.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    // https://www.iana.org/assignments/iana-ipv4-special-registry
    let [a, b, c, _] = address.octets();
    !match a {
        // This network; private; loopback.
        0 | 10 | 127 => true,
        // CGNAT.
        100 => b & 0xC0 == 64,
        // Link-local.
        169 => b == 254,
        // Private.
        172 => b & 0xF0 == 16,
        // Protocol assignments, documentation, 6to4 relays, private.
        192 => matches!((b, c), (0, 0 | 2) | (88, 99) | (168, _)),
        // Benchmarks, documentation.
        198 => matches!((b, c), (18 | 19, _) | (51, 100)),
        // Documentation.
        203 => (b, c) == (0, 113),
        // Multicast; reserved; broadcast.
        224.. => true,
        _ => false,
    }
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // https://www.iana.org/assignments/iana-ipv6-special-registry
    let embedded = |bits: u128| is_public_v4(Ipv4Addr::from_bits(bits as u32));
    let bits = address.to_bits();
    match address.segments() {
        // IPv4-mapped.
        [0, 0, 0, 0, 0, 0xFFFF, ..] => embedded(bits),
        // NAT64, the well-known prefix. Its local one, 64:ff9b:1::/48, is outside of 2000::/3.
        [0x64, 0xFF9B, 0, 0, 0, 0, ..] => embedded(bits),
        // 6to4.
        [0x2002, ..] => embedded(bits >> 80),
        // Protocol assignments: Teredo, benchmarks, ORCHID.
        [0x2001, second, ..] if second < 0x200 => false,
        // Documentation.
        [0x2001, 0xDB8, ..] => false,
        [0x3FFF, second, ..] if second < 0x1000 => false,
        // What is given out as global unicast. Outside of it are unspecified, loopback, IPv4-compatible, local, ULA,
        // link-local, site-local, multicast, and what is nobody's yet.
        [first, ..] => first & 0xE000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_no_public_host() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.254",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::7f00:1",
            "::10.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:192.168.1.1",
            "::ffff:0:0",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:1:ffff::a00:1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:a9fe:a9fe::",
            "2002:c0a8:101::",
            "2002:e000:1::",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:1ff::1",
            "2001:db8::1",
            "3fff::1",
            "3fff:fff::1",
            "100::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
            "4000::1",
            "8000::1",
            "e000::1",
            "1::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn addresses_of_public_hosts() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "162.159.133.233",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.0.3.0",
            "192.88.98.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.1",
            "203.0.112.1",
            "223.255.255.255",
            "2606:4700::6810:84e5",
            "2a00:1450::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2001:db9::1",
            "3fff:1000::1",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn ranges() {
        let range = |text: &str| text.parse::<AddressRange>();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(range("127.0.0.0/8").unwrap().contains(at("127.9.9.9")));
        assert!(!range("127.0.0.0/8").unwrap().contains(at("128.0.0.0")));
        assert!(!range("127.0.0.0/8").unwrap().contains(at("::ffff:127.0.0.1")));
        assert!(range("0.0.0.0/0").unwrap().contains(at("255.0.0.1")));
        assert!(range("10.0.0.1/32").unwrap().contains(at("10.0.0.1")));
        assert!(!range("10.0.0.1/32").unwrap().contains(at("10.0.0.0")));
        assert!(range("fd00::/8").unwrap().contains(at("fdff::1")));
        assert_eq!(range("fd00:1::/32").unwrap().to_string(), "fd00:1::/32");
        for wrong in ["", "10.0.0.1", "10.0.0.1/33", "::/129", "10.0.0.1/-1", "x/8", "10.0.0.1/8/8"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}

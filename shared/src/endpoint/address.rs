//! Which addresses events may be sent to. An endpoint is whatever a customer types in: without these rules it would be
//! a way to make us call our own network, or the one of the cloud that we run in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::session::Site;

/// How far deliveries may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The public Internet, by https.
    Public,
    /// That, and this machine, by plain http too: the local system.
    Local,
}

impl Reach {
    /// Of a site: only the local system is reached by plain http itself.
    pub fn of(site: &Site) -> Self {
        if site.origin.starts_with("http://") { Self::Local } else { Self::Public }
    }

    /// Whether a connection to this address may be made.
    pub fn allows(self, address: IpAddr) -> bool {
        is_public(address) || (self == Self::Local && address.is_loopback())
    }
}

/// Whether an address is one of the public Internet. What is not known to be is not.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Networks of IPv4 that are not the public Internet (IANA's registry of special addresses), as address and length.
const SPECIAL_V4: [([u8; 4], u32); 17] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    // Carriers' own (CGNAT); one cloud has its metadata there.
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    // Link-local: 169.254.169.254 is most clouds' metadata.
    ([169, 254, 0, 0], 16),
    // One cloud's host, under a public address.
    ([168, 63, 129, 16], 32),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    // Multicast.
    ([224, 0, 0, 0], 4),
    // Reserved, and broadcast.
    ([240, 0, 0, 0], 4),
    ([255, 255, 255, 255], 32),
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let within = |(network, length): &([u8; 4], u32)| {
        let other = 32 - length;
        let (address, network) = (u32::from(address), u32::from_be_bytes(*network));
        address >> other == network >> other
    };
    !SPECIAL_V4.iter().any(within)
}

/// Only what is given out to networks, `2000::/3`, and of that not what stands for something else: an IPv4 address
/// inside (6to4, Teredo), protocols, documentation. So mapped and translated IPv4 (`::ffff:0:0/96`, `64:ff9b::/96`),
/// link-local and unique local addresses are out, metadata among them.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let global = (0x2000..=0x3fff).contains(&first);
    let protocols = first == 0x2001 && second < 0x0200;
    let documentation = (first == 0x2001 && second == 0x0db8) || (first == 0x3fff && second < 0x1000);
    let six_to_four = first == 0x2002;
    global && !protocols && !documentation && !six_to_four
}

/// The URL of an endpoint: https, and no address or name that is known not to be public. Where a name leads is checked
/// when it is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

/// Why a URL is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not parse.
    #[error("not a URL: write it as https://example.com/path")]
    NotAUrl,
    /// Too long.
    #[error("too long: at most 1024 characters")]
    TooLong,
    /// Plain http or something else.
    #[error("only https is taken")]
    NotHttps,
    /// A user name or password in front of the host.
    #[error("no user name or password in the URL: what we send is signed, check the signature instead")]
    Credentials,
    /// `#…`, which is never sent.
    #[error("no fragment (#…): it would not be sent")]
    Fragment,
    /// Not on the public Internet.
    #[error("this host is not on the public Internet")]
    NotPublic,
}

/// Names that mean the own machine or network.
const INTERNAL: [&str; 6] = ["localhost", "local", "internal", "home.arpa", "lan", "intranet"];

impl EndpointUrl {
    /// The longest URL that is taken.
    pub const MOST: usize = 1024;

    /// Reads a URL.
    pub fn parse(text: &str, reach: Reach) -> Result<Self, UrlError> {
        if text.len() > Self::MOST {
            return Err(UrlError::TooLong);
        }
        let url = Url::parse(text.trim()).map_err(|_| UrlError::NotAUrl)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::Credentials);
        }
        if url.fragment().is_some() {
            return Err(UrlError::Fragment);
        }
        let local = reach == Reach::Local && is_loopback(&url);
        match url.scheme() {
            "https" => {}
            "http" if local => {}
            "http" if reach == Reach::Local => return Err(UrlError::NotPublic),
            _ => return Err(UrlError::NotHttps),
        }
        let url = Self(url);
        if local || url.may_be_reached(reach) { Ok(url) } else { Err(UrlError::NotPublic) }
    }

    /// As it is sent to.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether its host may be connected to, as far as it can be told without looking it up. A host that is an address
    /// is never looked up: this is its only check.
    pub fn may_be_reached(&self, reach: Reach) -> bool {
        match self.0.host() {
            Some(Host::Ipv4(address)) => reach.allows(address.into()),
            Some(Host::Ipv6(address)) => reach.allows(address.into()),
            Some(Host::Domain(name)) => (reach == Reach::Local && is_loopback(&self.0)) || is_public_name(name),
            None => false,
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether a name may be one of the public Internet: it has a dot, and no ending that is of one machine or network
/// only.
fn is_public_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let internal =
        |ending: &&str| name.strip_suffix(*ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    name.contains('.') && !INTERNAL.iter().any(internal)
}

impl Serialize for EndpointUrl {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// From a store: the rules were kept when it was stored, and are asked again when it is connected to.
impl<'de> Deserialize<'de> for EndpointUrl {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        Url::parse(&text).map(Self).map_err(|_| serde::de::Error::custom("not a URL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 \
        168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 \
        192.0.3.0 192.88.98.255 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 \
        203.0.112.255 203.0.114.0 223.255.255.255 2001:200::1 2001:4860:4860::8888 2606:4700::1111 2003::1 \
        2a00:1450::1 3ffe:ffff::1 2001:db7::1 2001:db9::1";

    const REFUSED: &str = "0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 \
        168.63.129.16 169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 \
        192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.7 \
        203.0.113.7 224.0.0.1 239.255.255.255 240.0.0.0 255.255.255.255 :: ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 \
        ::ffff:169.254.169.254 ::ffff:0:8.8.8.8 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::808:808 64:ff9b:1::1 \
        100::1 2001::1 2001:0:7f00:1:: 2001:10::1 2001:20::1 2001:1ff:ffff::1 2001:db8::1 2002:7f00:1:: \
        2002:a9fe:a9fe:: 2002:808:808:: 3fff::1 3fff:fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 \
        fe80::a9fe:a9fe fec0::1 ff02::1 ff0e::1";

    #[test]
    fn only_addresses_of_the_public_internet_are_reached() {
        for (addresses, reached) in [(PUBLIC, true), (REFUSED, false)] {
            for address in addresses.split_whitespace() {
                let parsed: IpAddr = address.parse().unwrap();
                assert_eq!(Reach::Public.allows(parsed), reached, "{address}");
                assert_eq!(Reach::Local.allows(parsed), reached, "{address}");
            }
        }
    }

    #[test]
    fn this_machine_is_reached_by_the_local_system_only() {
        for address in ["127.0.0.1", "127.255.255.255", "::1"] {
            let parsed: IpAddr = address.parse().unwrap();
            assert!(!Reach::Public.allows(parsed), "{address}");
            assert!(Reach::Local.allows(parsed), "{address}");
        }
    }

    #[test]
    fn a_url_is_https_to_a_public_host() {
        for good in [
            "https://example.com/hooks?key=1",
            "https://example.com:8443/",
            "https://xn--bcher-kva.example/",
            "https://1.1.1.1/",
            "https://[2606:4700::1111]/",
            "https://localhost.example.com/",
            "https://internal.example.com/",
        ] {
            assert!(EndpointUrl::parse(good, Reach::Public).is_ok(), "{good}");
        }
        let table = [
            ("", UrlError::NotAUrl),
            ("example.com", UrlError::NotAUrl),
            ("https://", UrlError::NotAUrl),
            ("https://exa mple.com", UrlError::NotAUrl),
            ("http://example.com/", UrlError::NotHttps),
            ("ftp://example.com/", UrlError::NotHttps),
            ("file:///etc/passwd", UrlError::NotHttps),
            ("gopher://127.0.0.1:25/", UrlError::NotHttps),
            ("https://ann:secret@example.com/", UrlError::Credentials),
            ("https://ann@example.com/", UrlError::Credentials),
            ("https://example.com/#top", UrlError::Fragment),
            ("https://localhost/", UrlError::NotPublic),
            ("https://LOCALHOST./", UrlError::NotPublic),
            ("https://a.localhost/", UrlError::NotPublic),
            ("https://printer.local/", UrlError::NotPublic),
            ("https://metadata.google.internal/", UrlError::NotPublic),
            ("https://router/", UrlError::NotPublic),
            ("https://127.0.0.1/", UrlError::NotPublic),
            ("https://127.1/", UrlError::NotPublic),
            ("https://2130706433/", UrlError::NotPublic),
            ("https://0x7f.1/", UrlError::NotPublic),
            ("https://0177.0.0.1/", UrlError::NotPublic),
            ("https://169.254.169.254/latest/meta-data/", UrlError::NotPublic),
            ("https://0xa9fea9fe/", UrlError::NotPublic),
            ("https://[::1]/", UrlError::NotPublic),
            ("https://[::ffff:169.254.169.254]/", UrlError::NotPublic),
            ("https://[64:ff9b::a9fe:a9fe]/", UrlError::NotPublic),
            ("https://[fd00:ec2::254]/", UrlError::NotPublic),
            ("https://１２７.0.0.1/", UrlError::NotPublic),
            ("https://10.0.0.1:8443/", UrlError::NotPublic),
        ];
        for (url, why) in table {
            assert_eq!(EndpointUrl::parse(url, Reach::Public), Err(why), "{url}");
        }
        let long = format!("https://example.com/{}", "x".repeat(EndpointUrl::MOST));
        assert_eq!(EndpointUrl::parse(&long, Reach::Public), Err(UrlError::TooLong));
    }

    #[test]
    fn plain_http_is_for_this_machine_and_the_local_system() {
        for good in ["http://127.0.0.1:9000/", "http://localhost:9000/", "http://[::1]:9000/", "https://127.0.0.1/"] {
            assert!(EndpointUrl::parse(good, Reach::Local).is_ok(), "{good}");
            assert!(EndpointUrl::parse(good, Reach::Public).is_err(), "{good}");
        }
        for wrong in ["http://10.0.0.1/", "http://example.com/", "https://10.0.0.1/", "http://169.254.169.254/"] {
            assert_eq!(EndpointUrl::parse(wrong, Reach::Local), Err(UrlError::NotPublic), "{wrong}");
        }
    }
}

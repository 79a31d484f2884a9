//! Where outbound calls may go. Vendor addresses come from admins, file links from vendors, redirects from anyone:
//! none of them may lead into the operator's own network.
//! An address is judged twice: [`EgressPolicy::check_url`] sees what is written in the URL (HTTP clients never resolve IP
//! literals), and [`PublicAddresses`] sees what a name resolves to, so that the address connected to is the one judged.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// An entry of `HEADGATE_EGRESS_ALLOW` that is neither a host nor a CIDR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a host name, nor an IP address, nor a CIDR such as 10.1.0.0/16")]
pub struct InvalidRule(String);

/// Why an address may not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    #[error("only http and https addresses may be reached")]
    Scheme,
    #[error("an address may not carry a user name or a password")]
    UserInfo,
    #[error("an address needs a host")]
    NoHost,
    #[error("`{0}` is not a public address; the operator can permit it in HEADGATE_EGRESS_ALLOW")]
    NotPublic(String),
}

/// Which hosts may be reached: every public one, and those the operator permits. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct EgressPolicy(Arc<Rules>);

#[derive(Debug, Default)]
struct Rules {
    /// Lower case, without a final dot. They may resolve to anything.
    names: HashSet<String>,
    networks: Vec<IpNet>,
}

impl EgressPolicy {
    /// Reads `HEADGATE_EGRESS_ALLOW`: hosts, IP addresses and CIDRs, separated by commas. Empty permits public hosts only.
    ///
    /// # Errors
    /// The first entry that is none of these.
    pub fn parse(list: &str) -> Result<Self, InvalidRule> {
        let mut rules = Rules::default();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let invalid = || InvalidRule(entry.to_owned());
            if entry.contains('/') {
                rules.networks.push(entry.parse().map_err(|_| invalid())?);
            } else if let Ok(address) = entry.parse::<IpAddr>() {
                rules.networks.push(address.into());
            } else {
                match Host::parse(entry).map_err(|_| invalid())? {
                    Host::Ipv4(address) => rules.networks.push(IpAddr::V4(address).into()),
                    Host::Ipv6(address) => rules.networks.push(IpAddr::V6(address).into()),
                    Host::Domain(name) if name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) => {
                        rules.names.insert(plain(&name));
                    }
                    Host::Domain(_) => return Err(invalid()),
                }
            }
        }
        Ok(Self(Arc::new(rules)))
    }

    /// Judges what is written in a URL. A name passes here and is judged by what it resolves to.
    ///
    /// # Errors
    /// Why the URL may not be called.
    pub fn check_url(&self, url: &Url) -> Result<(), Blocked> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Blocked::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Blocked::UserInfo);
        }
        let literal = match url.host().ok_or(Blocked::NoHost)? {
            Host::Domain(_) => return Ok(()),
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
        };
        if self.allows(literal) { Ok(()) } else { Err(Blocked::NotPublic(literal.to_string())) }
    }

    /// Whether the operator named this URL's host as an exception.
    pub fn permits_by_name(&self, url: &Url) -> bool {
        match url.host() {
            Some(Host::Domain(name)) => self.0.names.contains(&plain(name)),
            Some(Host::Ipv4(address)) => self.is_exception(address.into()),
            Some(Host::Ipv6(address)) => self.is_exception(address.into()),
            None => false,
        }
    }

    /// Whether a connection to this address may be opened.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.is_exception(address) || is_public(address)
    }

    fn is_exception(&self, address: IpAddr) -> bool {
        let plain = address.to_canonical();
        self.0.networks.iter().any(|network| network.contains(&address) || network.contains(&plain))
    }

    /// A resolver that gives out only addresses that may be reached.
    pub fn resolver(&self) -> PublicAddresses {
        PublicAddresses(self.clone())
    }
}

/// Resolves names with the system's resolver and drops every address that may not be reached.
#[derive(Debug, Clone)]
pub struct PublicAddresses(EgressPolicy);

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            // Port 0: the client puts in the URL's port.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let anything = policy.0.names.contains(&plain(&name));
            let passed: Vec<SocketAddr> = found.filter(|address| anything || policy.allows(address.ip())).collect();
            if passed.is_empty() {
                return Err(Blocked::NotPublic(name).into());
            }
            Ok(Box::new(passed.into_iter()) as Addrs)
        })
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// The IANA special-purpose registry, plus Azure's platform address, which is metadata behind a public number.
const SPECIAL_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::UNSPECIFIED, 8),            // this network, unspecified
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // carrier-grade NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure platform
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local, metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, broadcast
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !SPECIAL_V4.iter().any(|(network, length)| (bits ^ network.to_bits()) >> (32 - length) == 0)
}

/// Parts of 2000::/3 that are not ordinary hosts.
const SPECIAL_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // Teredo, benchmarking, ORCHID and kin
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// Only global unicast (2000::/3) is public: ULA, link-local, multicast and all else lie outside it. Two ways to write
/// an IPv4 address are judged as that address; DNS64 networks answer with the second one for every IPv4-only host.
fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    if let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() {
        return is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    }
    let bits = address.to_bits();
    let within = |(network, length): &(Ipv6Addr, u32)| (bits ^ network.to_bits()) >> (128 - length) == 0;
    bits >> 125 == 1 && !SPECIAL_V6.iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &EgressPolicy, url: &str) -> Result<(), Blocked> {
        policy.check_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn only_public_addresses_are_reachable() {
        let policy = EgressPolicy::default();
        let refused = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for address in refused {
            assert!(!policy.allows(address.parse().unwrap()), "{address} was allowed");
        }
        let allowed = [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2001:200::1",
            "2606:4700:4700::1111",
            "2a00:1450::1",
        ];
        for address in allowed {
            assert!(policy.allows(address.parse().unwrap()), "{address} was refused");
        }
    }

    #[test]
    fn every_spelling_of_a_private_literal_is_refused() {
        let policy = EgressPolicy::default();
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "169.254.169.254",
            "[fd00:ec2::254]",
        ] {
            assert!(matches!(check(&policy, &format!("http://{host}/")), Err(Blocked::NotPublic(_))), "{host}");
        }
    }

    #[test]
    fn only_http_and_https_without_user_info() {
        let policy = EgressPolicy::parse("files.test").unwrap();
        assert_eq!(check(&policy, "ftp://files.test/x"), Err(Blocked::Scheme));
        assert_eq!(check(&policy, "file:///etc/passwd"), Err(Blocked::Scheme));
        assert_eq!(check(&policy, "https://user@files.test/"), Err(Blocked::UserInfo));
        assert_eq!(check(&policy, "https://:secret@files.test/"), Err(Blocked::UserInfo));
        assert_eq!(check(&policy, "https://files.test/"), Ok(()));
    }

    #[test]
    fn the_operator_can_permit_addresses_networks_and_names() {
        let policy = EgressPolicy::parse(" 127.0.0.1, 10.1.0.0/16,[::1] ,fd00::/8,Minio.internal.").unwrap();
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "10.1.200.3", "::1", "fd12::1"] {
            assert!(policy.allows(address.parse().unwrap()), "{address} was refused");
        }
        for address in ["127.0.0.2", "10.2.0.1", "::2"] {
            assert!(!policy.allows(address.parse().unwrap()), "{address} was allowed");
        }
        assert!(policy.permits_by_name(&Url::parse("http://minio.INTERNAL/x").unwrap()));
        assert!(policy.permits_by_name(&Url::parse("http://10.1.0.9:9000/x").unwrap()));
        assert!(!policy.permits_by_name(&Url::parse("http://example.com/x").unwrap()));
    }

    #[test]
    fn a_rule_that_is_no_host_is_named() {
        for bad in ["10.0.0.0/33", "http://x.test", "x.test:80", "*", "a b"] {
            let error = EgressPolicy::parse(&format!("127.0.0.1,{bad}")).unwrap_err();
            assert_eq!(error, InvalidRule(bad.into()));
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let resolve = |policy: EgressPolicy| async move {
            let found = policy.resolver().resolve("localhost".parse().unwrap()).await;
            found.map(|addresses| addresses.map(|address| address.ip()).collect::<Vec<_>>())
        };
        let error = resolve(EgressPolicy::default()).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Blocked::NotPublic("localhost".into())));
        let one = resolve(EgressPolicy::parse("127.0.0.1/32").unwrap()).await.unwrap();
        assert!(one.iter().all(|address| *address == IpAddr::V4(Ipv4Addr::LOCALHOST)), "{one:?}");
        assert!(!resolve(EgressPolicy::parse("localhost").unwrap()).await.unwrap().is_empty());
    }
}

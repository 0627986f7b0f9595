//! Classes of addresses that an agent must not reach through us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Why an address isn't dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// This machine (RFC 1122 section 3.2.1.3; RFC 4291 section 2.5.3).
    Loopback,
    /// A private network (RFC 1918; RFC 4193).
    Private,
    /// Link-local, where cloud metadata services live (RFC 3927; RFC 4291 section 2.5.6).
    LinkLocal,
    /// Carrier-grade NAT (RFC 6598).
    SharedNat,
    /// Multicast (RFC 5771; RFC 4291 section 2.7).
    Multicast,
    /// Unspecified, broadcast, documentation, benchmarking or otherwise not public (RFC 6890).
    Reserved,
    /// A port of another protocol, whose servers may take parts of a request for commands.
    Port,
    /// A listener of this very process.
    Own,
}

impl Class {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::LinkLocal => "link-local",
            Self::SharedNat => "carrier-grade NAT",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Port => "a port of another protocol (`upstream.refused_ports`)",
            Self::Own => "sallyport's own listener",
        }
    }
}

/// Checks an address.
///
/// # Errors
/// The class for which it is refused. Networks in `allowed` pass.
pub fn check(ip: IpAddr, allowed: &[IpNet]) -> Result<(), Class> {
    if allowed.iter().any(|net| net.contains(&ip)) {
        return Ok(());
    }
    match ip {
        IpAddr::V4(v4) => check_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) if allowed.iter().any(|net| net.contains(&IpAddr::V4(v4))) => Ok(()),
            Some(v4) => check_v4(v4),
            None => check_v6(v6),
        },
    }
}

fn check_v4(ip: Ipv4Addr) -> Result<(), Class> {
    let [a, b, c, _] = ip.octets();
    let class = match (a, b, c) {
        (127, ..) => Class::Loopback,
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Class::Private,
        (169, 254, _) => Class::LinkLocal,
        (100, 64..=127, _) => Class::SharedNat,
        (224..=239, ..) => Class::Multicast,
        (0 | 240..=255, ..) | (192, 0, 0 | 2) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) | (192, 88, 99) => {
            Class::Reserved
        }
        _ => return Ok(()),
    };
    Err(class)
}

/// The IPv4 address inside a mapped (RFC 4291 2.5.5.2), compatible, NAT64 (RFC 6052, RFC 8215),
/// 6to4 (RFC 3056) or Teredo (RFC 4380) address.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let v4 = |hi: u16, lo: u16| Ipv4Addr::from((u32::from(hi) << 16) | u32::from(lo));
    match s {
        [0, 0, 0, 0, 0, 0xffff, hi, lo] | [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] => Some(v4(hi, lo)),
        [0x64, 0xff9b, 1, _, _, _, hi, lo] => Some(v4(hi, lo)),
        [0, 0, 0, 0, 0, 0, hi, lo] if hi != 0 => Some(v4(hi, lo)),
        [0, 0, 0, 0, 0xffff, 0, hi, lo] => Some(v4(hi, lo)),
        [0x2002, hi, lo, ..] => Some(v4(hi, lo)),
        [0x2001, 0, .., hi, lo] => Some(v4(!hi, !lo)),
        _ => None,
    }
}

fn check_v6(ip: Ipv6Addr) -> Result<(), Class> {
    let first = ip.segments()[0];
    let class = match first {
        _ if ip.is_loopback() => Class::Loopback,
        _ if ip.is_unspecified() => Class::Reserved,
        0xff00..=0xffff => Class::Multicast,
        0xfe80..=0xfebf => Class::LinkLocal,
        0xfc00..=0xfdff | 0xfec0..=0xfeff => Class::Private,
        // Outside global unicast, or documentation (RFC 3849, RFC 9637) and other special blocks.
        0x2001 if ip.segments()[1] < 0x200 || ip.segments()[1] == 0xdb8 => Class::Reserved,
        0x3fff if ip.segments()[1] < 0x1000 => Class::Reserved,
        0x2000..=0x3fff => return Ok(()),
        _ => Class::Reserved,
    };
    Err(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_refused_for_their_class_in_every_disguise() {
        for (text, class) in [
            ("127.0.99.1", Some(Class::Loopback)),
            ("::1", Some(Class::Loopback)),
            ("::ffff:127.0.99.1", Some(Class::Loopback)),
            ("::7f00:1", Some(Class::Loopback)),
            ("64:ff9b::a9fe:a9fe", Some(Class::LinkLocal)),
            ("64:ff9b:1::a00:1", Some(Class::Private)),
            ("2002:7f00:1::", Some(Class::Loopback)),
            ("2001:0:1:2:3:4:80ff:fffe", Some(Class::Loopback)),
            ("169.254.169.254", Some(Class::LinkLocal)),
            ("fe80::1", Some(Class::LinkLocal)),
            ("10.0.0.1", Some(Class::Private)),
            ("172.31.255.255", Some(Class::Private)),
            ("192.168.1.1", Some(Class::Private)),
            ("fd00::1", Some(Class::Private)),
            ("100.100.100.200", Some(Class::SharedNat)),
            ("224.0.0.1", Some(Class::Multicast)),
            ("ff02::1", Some(Class::Multicast)),
            ("0.0.0.0", Some(Class::Reserved)),
            ("::", Some(Class::Reserved)),
            ("255.255.255.255", Some(Class::Reserved)),
            ("198.18.0.1", Some(Class::Reserved)),
            ("2001:db8::1", Some(Class::Reserved)),
            ("172.32.0.1", None),
            ("1.1.1.1", None),
            ("2606:4700::1111", None),
        ] {
            assert_eq!(check(text.parse().expect(text), &[]).err(), class, "{text}");
        }
    }

    #[test]
    fn allowed_network_passes_also_when_mapped() {
        let allowed = ["10.0.0.0/8".parse().expect("net")];
        assert_eq!(check("10.1.2.3".parse().expect("ip"), &allowed), Ok(()));
        assert_eq!(check("::ffff:10.1.2.3".parse().expect("ip"), &allowed), Ok(()));
        assert_eq!(check("192.168.0.1".parse().expect("ip"), &allowed), Err(Class::Private));
    }
}

//! IP addresses (`apiserver/pkg/cel/library/ip.go`).

use std::net::IpAddr;

use super::{Library, Result, opaque, text};
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::types::Type;
use crate::value::{Opaque, Value, downcast};

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.net.ip", declare).with_types(|| vec![ty()]);

/// The type.
pub fn ty() -> Type {
    Type::opaque("net.IP")
}

/// An address, of either family; none of the fourth mapped into the sixth, none with a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(pub(crate) IpAddr);

impl Ip {
    /// Reads an address.
    pub fn parse(text: &str) -> std::result::Result<Ip, String> {
        if text.contains(':') && text.contains('%') {
            return Err(format!("IP address {text:?} with zone value is not allowed"));
        }
        let address: IpAddr = text.parse().map_err(|_| {
            format!(
                "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
            )
        })?;
        match address {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
            }
            address => Ok(Ip(address)),
        }
    }

    /// 4 or 16.
    pub(crate) fn length(self) -> u64 {
        if self.0.is_ipv4() { 4 } else { 16 }
    }
}

impl Opaque for Ip {
    fn ty(&self) -> Type {
        ty()
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        downcast::<Ip>(other) == Some(self)
    }

    fn size(&self) -> Option<u64> {
        Some(self.length())
    }
}

fn tested<'a>(args: &[Value<'a>], test: fn(IpAddr) -> bool) -> Result<'a> {
    Ok(Value::Bool(test(opaque::<Ip>(args, 0)?.0)))
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local_unicast(ip))
}

fn declare(f: &mut Functions) {
    f.global("ip", "string_to_ip", [Type::String], ty(), |a| {
        Ip::parse(text(a, 0)?).map(Value::opaque).map_err(EvalError::new)
    });
    f.global("isIP", "is_ip", [Type::String], Type::Bool, |a| Ok(Value::Bool(Ip::parse(text(a, 0)?).is_ok())));
    f.global("ip.isCanonical", "ip_is_canonical", [Type::String], Type::Bool, |a| {
        let given = text(a, 0)?;
        Ip::parse(given).map(|ip| Value::Bool(ip.0.to_string() == given)).map_err(EvalError::new)
    });
    f.global("string", "ip_to_string", [ty()], Type::String, |a| Ok(opaque::<Ip>(a, 0)?.0.to_string().into()));
    f.member("family", "ip_family", [ty()], Type::Int, |a| {
        Ok(Value::Int(if opaque::<Ip>(a, 0)?.0.is_ipv4() { 4 } else { 6 }))
    });
    f.member("isUnspecified", "ip_is_unspecified", [ty()], Type::Bool, |a| tested(a, |ip| ip.is_unspecified()));
    f.member("isLoopback", "ip_is_loopback", [ty()], Type::Bool, |a| tested(a, |ip| ip.is_loopback()));
    f.member("isLinkLocalMulticast", "ip_is_link_local_multicast", [ty()], Type::Bool, |a| {
        tested(a, is_link_local_multicast)
    });
    f.member("isLinkLocalUnicast", "ip_is_link_local_unicast", [ty()], Type::Bool, |a| {
        tested(a, is_link_local_unicast)
    });
    f.member("isGlobalUnicast", "ip_is_global_unicast", [ty()], Type::Bool, |a| tested(a, is_global_unicast));
}

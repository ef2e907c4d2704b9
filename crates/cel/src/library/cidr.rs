//! Networks of IP addresses (`apiserver/pkg/cel/library/cidr.go`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ip::{self, Ip};
use super::{Library, Result, opaque, text};
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::types::Type;
use crate::value::{Opaque, Value, downcast};

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.net.cidr", declare).with_types(|| vec![ty()]);

/// The type.
pub fn ty() -> Type {
    Type::opaque("net.CIDR")
}

/// An address and how many of its first bits are those of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    ip: Ip,
    bits: u32,
}

impl Cidr {
    /// Reads a network.
    pub fn parse(text: &str) -> std::result::Result<Cidr, String> {
        let bad = || {
            let again = "network address parse error during conversion from string";
            format!("{again}: {again}: netip.ParsePrefix({text:?}): no '/'")
        };
        let (address, length) = text.rsplit_once('/').ok_or_else(bad)?;
        let ip = Ip::parse(address)?;
        let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let bits = Some(length).filter(|l| plain && (!l.starts_with('0') || l.len() == 1));
        match bits.and_then(|l| l.parse().ok()) {
            Some(bits) if u64::from(bits) <= ip.length() * 8 => Ok(Cidr { ip, bits }),
            _ => Err(format!(
                "network address parse error during conversion from string: netip.ParsePrefix({text:?}): bad bits after \
                 slash: {length:?}"
            )),
        }
    }

    /// The network of `bits` that an address is in.
    fn network(ip: Ip, bits: u32) -> IpAddr {
        match ip.0 {
            IpAddr::V4(v4) => {
                Ipv4Addr::from(u32::from(v4) & u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0)).into()
            }
            IpAddr::V6(v6) => {
                Ipv6Addr::from(u128::from(v6) & u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0)).into()
            }
        }
    }

    fn contains(self, ip: Ip) -> bool {
        ip.0.is_ipv4() == self.ip.0.is_ipv4() && Cidr::network(ip, self.bits) == Cidr::network(self.ip, self.bits)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip.0, self.bits)
    }
}

impl Opaque for Cidr {
    fn ty(&self) -> Type {
        ty()
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        downcast::<Cidr>(other) == Some(self)
    }

    fn size(&self) -> Option<u64> {
        Some(u64::from(self.bits).div_ceil(8))
    }
}

fn contains_ip<'a>(args: &[Value<'a>]) -> Result<'a> {
    let ip = match args.get(1) {
        Some(Value::String(text)) => Ip::parse(text).map_err(EvalError::new)?,
        _ => *opaque(args, 1)?,
    };
    Ok(Value::Bool(opaque::<Cidr>(args, 0)?.contains(ip)))
}

fn contains_cidr<'a>(args: &[Value<'a>]) -> Result<'a> {
    let other = match args.get(1) {
        Some(Value::String(text)) => Cidr::parse(text).map_err(EvalError::new)?,
        _ => *opaque(args, 1)?,
    };
    let cidr = opaque::<Cidr>(args, 0)?;
    Ok(Value::Bool(cidr.bits <= other.bits && cidr.contains(other.ip)))
}

fn declare(f: &mut Functions) {
    f.global("cidr", "string_to_cidr", [Type::String], ty(), |a| {
        Cidr::parse(text(a, 0)?).map(Value::opaque).map_err(EvalError::new)
    });
    f.global("isCIDR", "is_cidr", [Type::String], Type::Bool, |a| Ok(Value::Bool(Cidr::parse(text(a, 0)?).is_ok())));
    f.global("string", "cidr_to_string", [ty()], Type::String, |a| Ok(opaque::<Cidr>(a, 0)?.to_string().into()));
    f.member("containsIP", "cidr_contains_ip_string", [ty(), Type::String], Type::Bool, contains_ip);
    f.member("containsIP", "cidr_contains_ip_ip", [ty(), ip::ty()], Type::Bool, contains_ip);
    f.member("containsCIDR", "cidr_contains_cidr_string", [ty(), Type::String], Type::Bool, contains_cidr);
    f.member("containsCIDR", "cidr_contains_cidr", [ty(), ty()], Type::Bool, contains_cidr);
    f.member("ip", "cidr_ip", [ty()], ip::ty(), |a| Ok(Value::opaque(opaque::<Cidr>(a, 0)?.ip)));
    f.member("prefixLength", "cidr_prefix_length", [ty()], Type::Int, |a| {
        Ok(Value::Int(opaque::<Cidr>(a, 0)?.bits.into()))
    });
    f.member("masked", "cidr_masked", [ty()], ty(), |a| {
        let cidr = opaque::<Cidr>(a, 0)?;
        Ok(Value::opaque(Cidr { ip: Ip(Cidr::network(cidr.ip, cidr.bits)), bits: cidr.bits }))
    });
}

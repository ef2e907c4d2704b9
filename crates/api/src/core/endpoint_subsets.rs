//! Subsets of [`Endpoints`](super::endpoints) in the one form they are stored in, so that equal ones compare equal: each
//! address once for a port, ports that the same addresses offer together, and all in order.
//!
//! The order of ports and subsets is upstream's, which is that of the MD5 sums of how Go's `spew` prints the internal types;
//! nothing else hangs on the sum. Upstream: `RepackSubsets` in `pkg/api/endpoints/util.go`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::object::{at, list, text};

/// What tells addresses apart: the IP and the object behind it.
type Key = (String, String);
/// Addresses of a port, and whether each is ready; one that is not anywhere is not.
type Ready = BTreeMap<Key, bool>;

/// The canonical form of some subsets.
pub fn repack(subsets: &[Value]) -> Vec<Value> {
    let mut addresses: BTreeMap<Key, &Value> = BTreeMap::new();
    // Ports with an application protocol are never the same port: upstream compares pointers there.
    let mut by_port: BTreeMap<(String, usize), (Option<&Value>, Ready)> = BTreeMap::new();
    let mut apart = 0;
    for subset in subsets {
        let ports = list(subset, &["ports"]);
        let of_none = ports.is_empty().then_some(None);
        for port in ports.iter().map(Some).chain(of_none) {
            apart += usize::from(port.is_some_and(|port| !at(port, &["appProtocol"]).is_null()));
            let place = port.map_or((String::new(), 0), |port| {
                (shown_port(port), if at(port, &["appProtocol"]).is_null() { 0 } else { apart })
            });
            let (_, ready) = by_port.entry(place).or_insert_with(|| (port, Ready::new()));
            for (field, is_ready) in [("addresses", true), ("notReadyAddresses", false)] {
                for address in list(subset, &[field]) {
                    let key = (text(address, &["ip"]).to_owned(), text(address, &["targetRef", "uid"]).to_owned());
                    addresses.entry(key.clone()).or_insert(address);
                    let entry = ready.entry(key).or_insert(is_ready);
                    *entry &= is_ready;
                }
            }
        }
    }
    let mut by_addresses: BTreeMap<Ready, Vec<&Value>> = BTreeMap::new();
    for (port, ready) in by_port.into_values() {
        by_addresses.entry(ready).or_default().extend(port);
    }
    let mut repacked: Vec<([u8; 16], Value)> = by_addresses
        .into_iter()
        .map(|(ready, mut ports)| {
            ports.sort_by_cached_key(|port| md5(format!("(core.EndpointPort){}", shown_port(port)).as_bytes()));
            let of = |wanted: bool| -> Vec<&Value> {
                let chosen = ready.iter().filter(|(_, is_ready)| **is_ready == wanted);
                let mut chosen: Vec<&Value> = chosen.filter_map(|(key, _)| addresses.get(key).copied()).collect();
                chosen.sort_by_key(|a| {
                    (text(a, &["ip"]), !at(a, &["targetRef"]).is_null(), text(a, &["targetRef", "uid"]))
                });
                chosen
            };
            let (up, down) = (of(true), of(false));
            let sum = md5(shown_subset(&up, &down, &ports).as_bytes());
            let mut subset = json!({});
            for (field, values) in [("addresses", up), ("notReadyAddresses", down), ("ports", ports)] {
                if !values.is_empty() {
                    subset[field] = json!(values);
                }
            }
            (sum, subset)
        })
        .collect();
    repacked.sort_by_key(|(digest, _)| *digest);
    repacked.into_iter().map(|(_, subset)| subset).collect()
}

fn shown_subset(ready: &[&Value], not_ready: &[&Value], ports: &[&Value]) -> String {
    fn all(values: &[&Value], one: fn(&Value) -> String) -> String {
        match values {
            [] => "<nil>".to_owned(),
            values => format!("[{}]", values.iter().map(|v| one(v)).collect::<Vec<_>>().join(" ")),
        }
    }
    format!(
        "(core.EndpointSubset){{Addresses:([]core.EndpointAddress){} NotReadyAddresses:([]core.EndpointAddress){} \
         Ports:([]core.EndpointPort){}}}",
        all(ready, shown_address),
        all(not_ready, shown_address),
        all(ports, shown_port),
    )
}

fn pointer(v: &Value) -> String {
    format!("(*string){}", v.as_str().unwrap_or("<nil>"))
}

fn shown_port(port: &Value) -> String {
    format!(
        "{{Name:(string){} Port:(int32){} Protocol:(core.Protocol){} AppProtocol:{}}}",
        text(port, &["name"]),
        at(port, &["port"]).as_i64().unwrap_or_default(),
        text(port, &["protocol"]),
        pointer(at(port, &["appProtocol"])),
    )
}

fn shown_address(address: &Value) -> String {
    let target = at(address, &["targetRef"]);
    let shown_target = if target.is_null() {
        "<nil>".to_owned()
    } else {
        format!(
            "{{Kind:(string){} Namespace:(string){} Name:(string){} UID:(types.UID){} APIVersion:(string){} \
             ResourceVersion:(string){} FieldPath:(string){}}}",
            text(target, &["kind"]),
            text(target, &["namespace"]),
            text(target, &["name"]),
            text(target, &["uid"]),
            text(target, &["apiVersion"]),
            text(target, &["resourceVersion"]),
            text(target, &["fieldPath"]),
        )
    };
    format!(
        "{{IP:(string){} Hostname:(string){} NodeName:{} TargetRef:(*core.ObjectReference){shown_target}}}",
        text(address, &["ip"]),
        text(address, &["hostname"]),
        pointer(at(address, &["nodeName"])),
    )
}

/// The MD5 sum (RFC 1321).
fn md5(bytes: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let mut message = bytes.to_vec();
    message.push(0x80);
    message.resize((message.len() + 8).next_multiple_of(64), 0);
    let bits = (bytes.len() as u64).wrapping_mul(8).to_le_bytes();
    let end = message.len() - 8;
    message[end..].copy_from_slice(&bits);
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in message.chunks_exact(64) {
        let word = |i: usize| u32::from_le_bytes([block[4 * i], block[4 * i + 1], block[4 * i + 2], block[4 * i + 3]]);
        let [mut a, mut b, mut c, mut d] = state;
        for i in 0..64 {
            let (mixed, from) = match i / 16 {
                0 => ((b & c) | (!b & d), i),
                1 => ((d & b) | (!d & c), (5 * i + 1) % 16),
                2 => (b ^ c ^ d, (3 * i + 5) % 16),
                _ => (c ^ (b | !d), (7 * i) % 16),
            };
            let sine = (((i + 1) as f64).sin().abs() * 4_294_967_296.0) as u32;
            let sum = a.wrapping_add(mixed).wrapping_add(sine).wrapping_add(word(from));
            (a, d, c) = (d, c, b);
            b = b.wrapping_add(sum.rotate_left(SHIFTS[i / 16][i % 4]));
        }
        for (total, part) in state.iter_mut().zip([a, b, c, d]) {
            *total = total.wrapping_add(part);
        }
    }
    let mut sum = [0; 16];
    for (bytes, word) in sum.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_rfc() {
        let hex = |text: &str| md5(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(hex("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
        assert_eq!(
            hex("12345678901234567890123456789012345678901234567890123456789012345678901234567890"),
            "57edf4a22be3c955ac49da2e2107b67a"
        );
        // Around the end of a block.
        assert_eq!(hex(&"a".repeat(55)), "ef1772b6dff9a122358552954ad0df65");
        assert_eq!(hex(&"a".repeat(56)), "3b0c8ac703f828b04c6c197006d17218");
        assert_eq!(hex(&"a".repeat(64)), "014842d480b571495a4a0363793f7367");
    }

    #[test]
    fn values_are_printed_as_go_prints_them() {
        let address = json!({"ip": "10.0.0.1", "nodeName": "n", "targetRef": {"kind": "Pod", "uid": "u"}});
        assert_eq!(
            shown_subset(&[&address], &[], &[&json!({"name": "a", "port": 80, "protocol": "TCP"})]),
            "(core.EndpointSubset){Addresses:([]core.EndpointAddress)[{IP:(string)10.0.0.1 Hostname:(string) \
             NodeName:(*string)n TargetRef:(*core.ObjectReference){Kind:(string)Pod Namespace:(string) Name:(string) \
             UID:(types.UID)u APIVersion:(string) ResourceVersion:(string) FieldPath:(string)}}] \
             NotReadyAddresses:([]core.EndpointAddress)<nil> Ports:([]core.EndpointPort)[{Name:(string)a Port:(int32)80 \
             Protocol:(core.Protocol)TCP AppProtocol:(*string)<nil>}]}"
        );
    }

    fn port(n: i64) -> Value {
        json!({"port": n, "protocol": "TCP"})
    }

    fn ip(n: u8) -> Value {
        json!({"ip": format!("10.0.0.{n}")})
    }

    /// Subsets as sets, whatever their order.
    fn check(subsets: Value, expected: Value) {
        let sorted = |v: Vec<Value>| {
            let mut texts: Vec<String> = v.iter().map(ToString::to_string).collect();
            texts.sort();
            texts
        };
        let repacked = repack(subsets.as_array().expect("a list"));
        assert_eq!(repack(&repacked), repacked, "what is repacked stays");
        assert_eq!(sorted(repacked), sorted(expected.as_array().expect("a list").clone()));
    }

    #[test]
    fn subsets_are_merged_by_ports_and_addresses() {
        // Two subsets of one port are one; addresses are in order, and each is there once.
        check(
            json!([{"addresses": [ip(2)], "ports": [port(80)]}, {"addresses": [ip(1), ip(2)], "ports": [port(80)]}]),
            json!([{"addresses": [ip(1), ip(2)], "ports": [port(80)]}]),
        );
        // Ports that the same addresses offer stand together.
        check(
            json!([{"addresses": [ip(1)], "ports": [port(80)]}, {"addresses": [ip(2)], "ports": [port(81)]}]),
            json!([{"addresses": [ip(1)], "ports": [port(80)]}, {"addresses": [ip(2)], "ports": [port(81)]}]),
        );
        // Not ready anywhere is not ready.
        check(
            json!([{"addresses": [ip(1)], "ports": [port(80)]}, {"notReadyAddresses": [ip(1)], "ports": [port(80)]}]),
            json!([{"notReadyAddresses": [ip(1)], "ports": [port(80)]}]),
        );
        // Addresses without ports are kept.
        check(json!([{"addresses": [ip(1)]}]), json!([{"addresses": [ip(1)]}]));
        check(json!([]), json!([]));
    }

    #[test]
    fn ports_are_in_the_order_of_their_sums() {
        let named = |name: &str, n: i64, protocol: &str| json!({"name": name, "port": n, "protocol": protocol});
        let (dns, tcp, metrics) = (named("dns", 53, "UDP"), named("dns-tcp", 53, "TCP"), named("metrics", 9153, "TCP"));
        let order = |ports: [&Value; 3]| repack(&[json!({"addresses": [ip(1)], "ports": ports})])[0]["ports"].clone();
        assert_eq!(order([&dns, &tcp, &metrics]), order([&metrics, &dns, &tcp]));
        let sums: Vec<[u8; 16]> = order([&dns, &tcp, &metrics])
            .as_array()
            .expect("ports")
            .iter()
            .map(|p| md5(format!("(core.EndpointPort){}", shown_port(p)).as_bytes()))
            .collect();
        assert!(sums.is_sorted());
    }
}

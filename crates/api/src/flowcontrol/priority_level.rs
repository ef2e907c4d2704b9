//! `PriorityLevelConfiguration`: how many requests of a level run at once, and what becomes of the others.
//!
//! Upstream: `pkg/registry/flowcontrol/prioritylevelconfiguration/strategy.go`, `ValidatePriorityLevelConfiguration`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_number, default_value, remove, same, text};
use crate::table::{age, name};
use crate::validate::internal::{self, Fields, Go};

/// The kind `PriorityLevelConfiguration`.
pub struct PriorityLevelConfiguration;

impl Kind for PriorityLevelConfiguration {
    facts!(Facts {
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Type", "string", "", 0),
            ("NominalConcurrencyShares", "string", "", 0),
            ("Queues", "string", "", 0),
            ("HandSize", "string", "", 0),
            ("QueueLengthLimit", "string", "", 0),
            AGE
        ],
        ..Facts::cluster(super::GROUP, "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(exempt) = at_mut(obj, &["spec", "exempt"]) {
            default_value(exempt, "nominalConcurrencyShares", 0);
            default_value(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = at_mut(obj, &["spec", "limited"]) {
            default_value(limited, "nominalConcurrencyShares", 30);
            default_value(limited, "lendablePercent", 0);
            if let Some(queuing) = at_mut(limited, &["limitResponse", "queuing"]) {
                default_number(queuing, "handSize", 8);
                default_number(queuing, "queues", 64);
                default_number(queuing, "queueLengthLimit", 50);
            }
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        super::prepare_create(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        super::prepare_update(cx, new, old);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        let level = root.dig("metadata.name").str();
        let spec = root.get("spec");
        validate_spec(&mut errs, level, &spec);
        fixed(&mut errs, level, &spec);
        super::conditions(&mut errs, obj);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            let mut errs = ErrorList::new();
            super::conditions(&mut errs, new);
            return errs;
        }
        self.validate(cx, new)
    }

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        if subresource == Some("status") { &[] } else { &[MetaPass::New] }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let limited = at(obj, &["spec", "limited"]);
        let queuing = at(limited, &["limitResponse", "queuing"]);
        let number = |of: &Value, field: &str| {
            if of.is_null() { json!("<none>") } else { json!(of[field].as_i64().unwrap_or_default()) }
        };
        vec![
            json!(name(obj)),
            json!(text(obj, &["spec", "type"])),
            number(limited, "nominalConcurrencyShares"),
            number(queuing, "queues"),
            number(queuing, "handSize"),
            number(queuing, "queueLengthLimit"),
            json!(age(obj, now)),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        crate::strategy::reset_all_or_status(subresource)
    }
}

/// The specs of the levels that must exist.
pub fn mandatory(name: &str) -> Option<Value> {
    match name {
        "exempt" => Some(json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})),
        "catch-all" => Some(json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
            "limitResponse": {"type": "Reject"}}})),
        _ => None,
    }
}

/// `flowcontrol.PriorityLevelConfigurationSpec`.
const LEVEL: Fields = &[
    ("type", "Type", Go::Text),
    (
        "limited",
        "Limited",
        Go::Struct(&[
            ("nominalConcurrencyShares", "NominalConcurrencyShares", Go::Zero),
            (
                "limitResponse",
                "LimitResponse",
                Go::Object(&[
                    ("type", "Type", Go::Text),
                    (
                        "queuing",
                        "Queuing",
                        Go::Struct(&[
                            ("queues", "Queues", Go::Zero),
                            ("handSize", "HandSize", Go::Zero),
                            ("queueLengthLimit", "QueueLengthLimit", Go::Zero),
                        ]),
                    ),
                ]),
            ),
            ("lendablePercent", "LendablePercent", Go::Nil),
            ("borrowingLimitPercent", "BorrowingLimitPercent", Go::Nil),
        ]),
    ),
    (
        "exempt",
        "Exempt",
        Go::Struct(&[
            ("nominalConcurrencyShares", "NominalConcurrencyShares", Go::Nil),
            ("lendablePercent", "LendablePercent", Go::Nil),
        ]),
    ),
];

/// The mandatory levels are what they are; of `exempt`, the numbers may be changed.
fn fixed(errs: &mut ErrorList, level: &str, spec: &View<'_>) {
    let Some(mut wanted) = mandatory(level) else { return };
    let mut given = spec.value().clone();
    let mut what = "";
    if level == "exempt" {
        remove(&mut wanted, &["exempt"]);
        remove(&mut given, &["exempt"]);
        what = " except the 'spec.exempt' field";
    }
    if !same(&given, &wanted) {
        let shown = internal::shown(LEVEL, spec.value());
        errs.invalid(spec.path(), shown, format!("spec of '{level}'{what} must equal the fixed value"));
    }
}

fn validate_spec(errs: &mut ErrorList, level: &str, spec: &View<'_>) {
    let (ty, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (level == "exempt") != (ty.str() == "Exempt") {
        errs.invalid(ty.path(), ty.str(), "must be 'Exempt' if and only if name is 'exempt'");
    }
    match ty.str() {
        "Exempt" => {
            if limited.is_set() {
                errs.forbidden(limited.path(), "must be nil if the type is not Limited");
            }
            if exempt.is_set() {
                shares(errs, &exempt.get("nominalConcurrencyShares"));
                percent(errs, &exempt.get("lendablePercent"));
            } else {
                errs.required(exempt.path(), "must not be empty when type is Exempt");
            }
        }
        "Limited" => {
            if exempt.is_set() {
                errs.forbidden(exempt.path(), "must be nil if the type is Limited");
            }
            if limited.is_set() {
                validate_limited(errs, &limited);
            } else {
                errs.required(limited.path(), "must not be empty when type is Limited");
            }
        }
        other => errs.not_supported(ty.path(), other, &["Exempt", "Limited"]),
    }
}

fn shares(errs: &mut ErrorList, v: &View<'_>) {
    if let Some(n) = v.int().filter(|n| *n < 0) {
        errs.invalid(v.path(), n, "must be a non-negative integer");
    }
}

fn percent(errs: &mut ErrorList, v: &View<'_>) {
    if let Some(n) = v.int().filter(|n| !(0..=100).contains(n)) {
        errs.invalid(v.path(), n, "must be between 0 and 100, inclusive");
    }
}

fn validate_limited(errs: &mut ErrorList, limited: &View<'_>) {
    shares(errs, &limited.get("nominalConcurrencyShares"));
    let response = limited.get("limitResponse");
    let (ty, queuing) = (response.get("type"), response.get("queuing"));
    match ty.str() {
        "Reject" => {
            if queuing.is_set() {
                errs.forbidden(queuing.path(), "must be nil if limited.limitResponse.type is not Limited");
            }
        }
        "Queue" => {
            if queuing.is_set() {
                validate_queuing(errs, &queuing);
            } else {
                errs.required(queuing.path(), "must not be empty if limited.limitResponse.type is Limited");
            }
        }
        other => errs.not_supported(ty.path(), other, &["Queue", "Reject"]),
    }
    percent(errs, &limited.get("lendablePercent"));
    let borrowing = limited.get("borrowingLimitPercent");
    if let Some(n) = borrowing.int().filter(|n| *n < 0) {
        errs.invalid(borrowing.path(), n, "if specified, must be a non-negative integer");
    }
}

/// Bits of the hash of a flow that can be spent on dealing a hand of queues.
const MAX_HASH_BITS: i64 = 60;

/// Bits needed to deal a hand from a deck. Upstream: `shufflesharding.RequiredEntropyBits`.
fn entropy_bits(deck: i64, hand: i64) -> i64 {
    ((deck as f64).log2() * hand as f64).ceil() as i64
}

fn validate_queuing(errs: &mut ErrorList, queuing: &View<'_>) {
    let number = |field: &str| queuing.get_named(field).int().unwrap_or_default();
    let (limit, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if limit <= 0 {
        errs.invalid(queuing.get("queueLengthLimit").path(), limit, "must be positive");
    }
    if queues <= 0 {
        errs.invalid(queuing.get("queues").path(), queues, "must be positive");
    } else if queues > 10_000_000 {
        errs.invalid(queuing.get("queues").path(), queues, "must not be greater than 10000000");
    }
    let path = queuing.get("handSize");
    let path = path.path();
    if hand <= 0 {
        errs.invalid(path, hand, "must be positive");
    } else if hand > queues {
        errs.invalid(path, hand, format!("should not be greater than queues ({queues})"));
    } else if hand > MAX_HASH_BITS * 2 || entropy_bits(queues, hand) > MAX_HASH_BITS {
        errs.invalid(
            path,
            hand,
            format!(
                "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than \
                 {MAX_HASH_BITS}"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::problems;

    fn check(name: &str, spec: Value, expected: &[&str]) {
        let mut obj = json!({"metadata": {"name": name}, "spec": spec});
        PriorityLevelConfiguration.default(&mut obj);
        assert_eq!(problems(&PriorityLevelConfiguration, &obj), expected);
    }

    #[test]
    fn defaults() {
        let mut obj =
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
        PriorityLevelConfiguration.default(&mut obj);
        assert_eq!(
            obj["spec"]["limited"],
            json!({"nominalConcurrencyShares": 30, "lendablePercent": 0,
                "limitResponse": {"type": "Queue", "queuing": {"handSize": 8, "queues": 64, "queueLengthLimit": 50}}})
        );
        let mut obj = json!({"spec": {"type": "Exempt", "exempt": {}}});
        PriorityLevelConfiguration.default(&mut obj);
        assert_eq!(obj["spec"], mandatory("exempt").expect("exempt is mandatory"));
    }

    #[test]
    fn specs() {
        let queuing =
            |q: Value| json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": q}}});
        check("x", queuing(json!({})), &[]);
        check(
            "x",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}}}),
            &[],
        );
        check(
            "x",
            json!({"type": "Limited"}),
            &["spec.limited: Required value: must not be empty when type is Limited"],
        );
        check(
            "x",
            json!({"type": "Exempt", "exempt": {}}),
            &["spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if name is 'exempt'"],
        );
        check(
            "x",
            json!({"type": "y"}),
            &["spec.type: Unsupported value: \"y\": supported values: \"Exempt\", \"Limited\""],
        );
        check(
            "x",
            queuing(json!({"queues": 4, "handSize": 5})),
            &["spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater than queues (4)"],
        );
        check(
            "x",
            queuing(json!({"queues": 512, "handSize": 8})),
            &[
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and \
             handSize 8 should not be greater than 60",
            ],
        );
        check(
            "x",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": -1, "lendablePercent": 101,
            "borrowingLimitPercent": -1, "limitResponse": {"type": "Reject", "queuing": {}}}}),
            &[
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
            ],
        );
        check(
            "catch-all",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 6, "limitResponse": {"type": "Reject"}}}),
            &[
                r#"spec: Invalid value: {"Type":"Limited","Limited":{"NominalConcurrencyShares":6,"LimitResponse":{"Type":"Reject","Queuing":null},"LendablePercent":0,"BorrowingLimitPercent":null},"Exempt":null}: spec of 'catch-all' must equal the fixed value"#,
            ],
        );
        check("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 7}}), &[]);
        check("catch-all", mandatory("catch-all").expect("catch-all is mandatory"), &[]);
    }

    #[test]
    fn cells() {
        let obj = json!({"metadata": {"name": "catch-all"}, "spec": mandatory("catch-all")});
        let cells = PriorityLevelConfiguration.cells(&obj, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..6], [json!("Limited"), json!(5), json!("<none>"), json!("<none>"), json!("<none>")]);
    }
}

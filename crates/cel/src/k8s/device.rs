//! Selectors of devices (`dynamic-resource-allocation/cel/compile.go`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use super::base;
use crate::env::{Env, Program};
use crate::eval::{Bindings, Budget, EvalError};
use crate::library;
use crate::quantity::Quantity;
use crate::types::{Shape, Type};
use crate::value::{Fields, Key, Map, Str, Value};

/// What one evaluation of a selector may cost, and what it is estimated to cost at most
/// (`CELSelectorExpressionMaxCost`).
pub const DEVICE_COST_LIMIT: u64 = 1_000_000;

/// `DeviceMaxDomainLength`, `DriverNameMaxLength`.
const MAX_DOMAIN: u64 = 63;
/// `DeviceMaxIDLength`.
const MAX_ID: u64 = 32;
/// `DeviceAttributeMaxValueLength`.
const MAX_ATTRIBUTE: u64 = 64;
/// `ResourceSliceMaxAttributesAndCapacitiesPerDevice`.
const MAX_ENTRIES: Option<u64> = Some(32);

static ENV: LazyLock<Env> = LazyLock::new(|| {
    let text = |max| Shape::bounded(Type::String, max);
    let by_name = |value| Shape::map(text(MAX_DOMAIN), Shape::map(text(MAX_ID), value, MAX_ENTRIES), MAX_ENTRIES);
    let fields = [
        ("driver".to_owned(), text(MAX_DOMAIN)),
        ("attributes".to_owned(), by_name(Shape::bounded(Type::Dyn, MAX_ATTRIBUTE))),
        ("capacity".to_owned(), by_name(Shape::bounded(library::quantity::ty(), 0))),
        ("allowMultipleAllocations".to_owned(), Shape::bounded(Type::Bool, 0)),
    ];
    base()
        .extend()
        .library(library::bindings::LIBRARY)
        .variable("device", Shape::object("kubernetes.DRADevice", fields))
        .build()
});

/// The environment of selectors of devices: `device` with `driver`, `attributes` and `capacity` by domain and name, and
/// `allowMultipleAllocations`.
/// [`Device`] is what the variable is bound to.
pub fn device_selector() -> Env {
    ENV.clone()
}

/// Compiles a selector, which gives a truth value or cannot be told. The message is upstream's.
pub fn compile_device_selector(expression: &str) -> Result<Program, String> {
    let program = ENV.compile(expression).map_err(|issues| format!("compilation failed: {issues}"))?;
    match program.result_type() {
        Type::Bool | Type::Dyn => Ok(program),
        other => Err(format!("must evaluate to bool or the unknown type, not {}", other.name())),
    }
}

/// What selectors see of a device. Made once, evaluated often.
#[derive(Clone, Debug, Default)]
pub struct Device {
    driver: String,
    attributes: Domains,
    capacity: Domains,
    allow_multiple_allocations: bool,
}

impl Device {
    /// A device of a driver, with nothing.
    pub fn new(driver: &str) -> Device {
        Device { driver: driver.to_owned(), ..Device::default() }
    }

    /// Adds an attribute: a truth value, a whole number, text or a [`Semver`](library::semver::Semver). A name without a
    /// domain is in that of the driver.
    pub fn attribute(&mut self, name: &str, value: Value<'static>) {
        self.attributes.add(name, &self.driver, value);
    }

    /// Adds a capacity.
    pub fn capacity(&mut self, name: &str, value: Quantity) {
        self.capacity.add(name, &self.driver, Value::opaque(value));
    }

    /// Whether several claims may share the device.
    pub fn allow_multiple_allocations(&mut self, allow: bool) {
        self.allow_multiple_allocations = allow;
    }

    /// Whether a selector selects the device.
    pub fn matches(&self, selector: &Program) -> Result<bool, EvalError> {
        let bindings = Bindings::new().with("device", Value::Map(Map::Fields(self)));
        let result = selector.eval(&bindings, &mut Budget::new(DEVICE_COST_LIMIT))?;
        result.as_bool().ok_or_else(|| {
            EvalError::new(format!("CEL result of type {} could not be converted to bool", result.ty().name()))
        })
    }
}

impl Fields for Device {
    fn get<'a>(&'a self, name: &str) -> Result<Option<Value<'a>>, EvalError> {
        Ok(match name {
            "driver" => Some(self.driver.as_str().into()),
            "attributes" => Some(Value::Map(Map::Fields(&self.attributes))),
            "capacity" => Some(Value::Map(Map::Fields(&self.capacity))),
            "allowMultipleAllocations" => Some(self.allow_multiple_allocations.into()),
            _ => None,
        })
    }

    fn names(&self) -> Vec<Cow<'_, str>> {
        ["driver", "attributes", "capacity", "allowMultipleAllocations"].map(Cow::from).into()
    }
}

/// Values by domain and name. Looking up a domain that is not there gives an empty map, so that selectors need not test
/// for it; `in` and loops see only what is there.
#[derive(Clone, Debug, Default)]
struct Domains(BTreeMap<String, Arc<BTreeMap<Key<'static>, Value<'static>>>>);

impl Domains {
    fn add(&mut self, name: &str, driver: &str, value: Value<'static>) {
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        let entries = self.0.entry(domain.to_owned()).or_default();
        Arc::make_mut(entries).insert(Key::String(Str::Shared(id.into())), value);
    }
}

impl Fields for Domains {
    fn get<'a>(&'a self, name: &str) -> Result<Option<Value<'a>>, EvalError> {
        Ok(Some(Value::Map(Map::Shared(self.0.get(name).cloned().unwrap_or_default()))))
    }

    fn has(&self, name: &str) -> Result<bool, EvalError> {
        Ok(self.0.contains_key(name))
    }

    fn names(&self) -> Vec<Cow<'_, str>> {
        self.0.keys().map(|name| name.as_str().into()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::semver::Semver;

    fn device() -> Device {
        let mut device = Device::new("dra.example.com");
        device.attribute("model", "gpu-7".into());
        device.attribute("other.example.com/index", 3.into());
        device.attribute("healthy", true.into());
        device.attribute("firmware", Value::opaque(Semver::parse("1.2.3").expect("a version")));
        device.capacity("memory", "40Gi".parse().expect("a quantity"));
        device
    }

    fn check(expression: &str, want: &str) {
        let got = match compile_device_selector(expression) {
            Err(message) => message,
            Ok(program) => match device().matches(&program) {
                Ok(matches) => matches.to_string(),
                Err(e) => format!("error: {e}"),
            },
        };
        assert_eq!(got, want, "{expression}");
    }

    #[test]
    fn selectors_select() {
        check("device.driver == 'dra.example.com'", "true");
        check("device.attributes['dra.example.com'].model == 'gpu-7'", "true");
        check("device.attributes['dra.example.com'].model.matches('^gpu-[0-9]+$')", "true");
        check("device.attributes['dra.example.com']['healthy']", "true");
        check("device.attributes['other.example.com'].index > 2", "true");
        check("device.attributes['dra.example.com'].firmware.isGreaterThan(semver('1.2.0'))", "true");
        check("device.attributes['dra.example.com'].firmware.compareTo(semver('v1.3', true)) < 0", "true");
        check("device.capacity['dra.example.com'].memory.compareTo(quantity('40Gi')) >= 0", "true");
        check("device.capacity['dra.example.com'].memory == quantity('40960Mi')", "true");
        check("'dra.example.com' in device.attributes", "true");
        check("'none.example.com' in device.attributes", "false");
        check("has(device.attributes['none.example.com'].model)", "false");
        check("device.attributes['none.example.com'].?model.orValue('x') == 'x'", "true");
        check("cel.bind(dra, device.attributes['dra.example.com'], dra.healthy && dra.model != '')", "true");
        check("device.attributes.exists(d, d == 'other.example.com')", "true");
        check("device.allowMultipleAllocations", "false");
    }

    #[test]
    fn errors_are_upstreams() {
        check("1", "must evaluate to bool or the unknown type, not int");
        check("device.attributes['none.example.com'].model == 'x'", "error: no such key: model");
        check(
            "device.attributes['dra.example.com'].model",
            "error: CEL result of type string could not be converted to bool",
        );
        check(
            "device.attributes['other.example.com'].index.exists(x, x > 0)",
            "error: got 'types.Int', expected iterable type",
        );
        check(
            "device.nothing",
            "compilation failed: ERROR: <input>:1:7: undefined field 'nothing'\n | device.nothing\n | ......^",
        );
        check(
            "device.driver == 1",
            "compilation failed: ERROR: <input>:1:15: found no matching overload for '_==_' applied to '(string, int)'\n | \
             device.driver == 1\n | ..............^",
        );
        check(
            "device.attributes['dra.example.com'].model.isGreaterThan(quantity('1'))",
            "error: no such overload: isGreaterThan(string, kubernetes.Quantity)",
        );
    }

    #[test]
    fn estimates_are_upstreams() {
        for (expression, want) in [
            ("true", 0),
            ("device.attributes['no-such-domain'].noSuchAttr.isGreaterThan(quantity('0'))", 6),
            ("'no-such-domain' in device.attributes", 3),
            ("device.driver == ''", 2),
            ("device.driver == 'dra.example.com'", 4),
            ("device.attributes['dra.example.com'].name", 4),
            ("device.attributes['dra.example.com']['name']", 4),
            ("cel.bind(dra, device.attributes['dra.example.com'], dra.name)", 15),
            ("device.attributes['dra.example.com'].name > 0", 5),
            ("device.attributes['dra.example.com'].name == 'fish'", 5),
            ("device.attributes['dra.example.com'].name.exists(x, x > 0)", 5 + 6 * 64),
            ("device.attributes['dra.example.com'].names.size() == 2", 6),
            ("device.attributes['dra.example.com'].names.all(x, x != '')", 5 + 4 * 64),
            ("device.attributes['dra.example.com'].names.all(x, x.isGreaterThan(semver('0.0.1')))", 5 + 6 * 64),
        ] {
            let program = compile_device_selector(expression).expect(expression);
            assert_eq!(program.estimate().max, want, "{expression}");
        }
    }

    #[test]
    fn a_selector_may_not_run_for_ever() {
        let list = "[0,1,2,3,4,5,6,7,8,9]";
        let loops = |depth: usize| (0..depth).fold("true".to_owned(), |body, n| format!("{list}.all(x{n}, {body})"));
        check(&loops(3), "true");
        check(&loops(7), "error: operation cancelled: actual cost limit exceeded");
    }
}

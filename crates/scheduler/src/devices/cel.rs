//! Selectors of devices in CEL. Upstream: `k8s.io/dynamic-resource-allocation/cel/compile.go`.

use orkd_cel::k8s::{self, compile_device_selector};
use orkd_cel::library::semver::Semver;

use super::catalogue::{AttributeValue, Device};
use super::selectors::{Language, Program};

/// The language of selectors.
pub struct Cel;

impl Language for Cel {
    fn compile(&self, expression: &str) -> Result<Box<dyn Program>, String> {
        Ok(Box::new(Compiled(compile_device_selector(expression)?)))
    }
}

struct Compiled(orkd_cel::Program);

impl Program for Compiled {
    fn matches(&self, device: &Device) -> Result<bool, String> {
        facts(device).matches(&self.0).map_err(|e| e.to_string())
    }
}

/// What selectors see of a device.
fn facts(device: &Device) -> k8s::Device {
    let mut facts = k8s::Device::new(&device.id.driver);
    for (name, value) in &device.attributes {
        let value = match value {
            AttributeValue::Int(n) => (*n).into(),
            AttributeValue::Bool(b) => (*b).into(),
            AttributeValue::String(text) => text.clone().into(),
            // The API lets no other in.
            AttributeValue::Version(text) => match Semver::parse(text) {
                Ok(version) => orkd_cel::Value::opaque(version),
                Err(_) => continue,
            },
        };
        facts.attribute(name, value);
    }
    for (name, (_, capacity)) in &device.capacity {
        facts.capacity(name, capacity.value.0);
    }
    facts.allow_multiple_allocations(device.said.allow_multiple_allocations);
    facts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::catalogue::PoolId;
    use super::*;

    #[track_caller]
    fn check(expression: &str, expected: &str) {
        let said = json!({"name": "x", "allowMultipleAllocations": true, "capacity": {"memory": {"value": "8Gi"}},
            "attributes": {"model": {"string": "a100"}, "cores": {"int": 4}, "example.org/healthy": {"bool": true},
                "firmware": {"version": "1.10.0"}}});
        let pool = PoolId { driver: "gpu.example.com".into(), pool: "p".into() };
        let device = Device::new(&pool, serde_json::from_value(said).expect("a device"), false);
        let told = match Cel.compile(expression) {
            Ok(program) => match program.matches(&device) {
                Ok(holds) => holds.to_string(),
                Err(_) => "fails".into(),
            },
            Err(_) => "refused".into(),
        };
        assert_eq!(told, expected, "{expression}");
    }

    #[test]
    fn selectors_see_what_the_driver_says() {
        check("device.driver == 'gpu.example.com'", "true");
        check("device.attributes['gpu.example.com'].model == 'a100'", "true");
        check("device.attributes['gpu.example.com'].cores > 4", "false");
        check("device.attributes['example.org'].healthy", "true");
        check("device.attributes['gpu.example.com'].firmware.isGreaterThan(semver('1.9.0'))", "true");
        check("device.capacity['gpu.example.com'].memory.compareTo(quantity('4Gi')) > 0", "true");
        check("device.allowMultipleAllocations", "true");
        // A domain that is not there is empty, a name that is not there is a mistake.
        check("'model' in device.attributes['other.example.com']", "false");
        check("device.attributes['other.example.com'].model == 'a100'", "fails");
        check("device.attributes['gpu.example.com'].model", "fails");
        check("device.vendor == 'x'", "refused");
        check("1 + 1", "refused");
        check("(", "refused");
    }
}

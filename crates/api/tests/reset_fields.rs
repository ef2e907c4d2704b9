//! Which fields nobody comes to own by writing through a door, of every kind: the `GetResetFields` of upstream's
//! strategies.

use std::collections::BTreeMap;

/// Doors that differ from the rule: the main one resets the status, `status` the spec, others nothing.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    ("APIService/status", &["spec", "metadata"]),
    ("CertificateSigningRequest/approval", &["spec", "status.certificate"]),
    ("CertificateSigningRequest/status", &["spec", "status.conditions"]),
    ("CustomResourceDefinition/status", &["spec", "metadata"]),
    ("Deployment/status", &["spec", "metadata.labels"]),
    ("FlowSchema/status", &["spec", "metadata"]),
    ("Namespace/finalize", &["status"]),
    ("Pod/ephemeralcontainers", &["spec", "status"]),
    ("Pod/resize", &["spec", "status"]),
    ("Pod/status", &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"]),
    ("PriorityLevelConfiguration/status", &["spec", "metadata"]),
    ("ValidatingAdmissionPolicy/status", &["spec", "metadata"]),
    ("VolumeAttachment/status", &["spec", "metadata"]),
];

#[test]
fn every_door_resets_what_upstreams_does() {
    let mut exceptions: BTreeMap<&str, &[&str]> = EXCEPTIONS.iter().copied().collect();
    for kind in orkd_api::kinds::all() {
        let info = kind.info();
        let written = |verbs: &[&str]| verbs.contains(&"update") || verbs.contains(&"patch");
        let doors = info.subresources.iter().filter(|s| s.kind == info.kind && written(s.verbs));
        let doors: Vec<&str> = doors.map(|s| s.name.as_ref()).collect();
        for door in [None].into_iter().chain(doors.iter().map(|d| Some(*d))) {
            let name = format!("{}/{}", info.kind, door.unwrap_or_default());
            let rule: &[&str] = match door {
                None if doors.contains(&"status") => &["status"],
                Some("status") => &["spec"],
                _ => &[],
            };
            let expected = exceptions.remove(name.as_str()).unwrap_or(rule);
            let paths: Vec<String> = kind.reset_fields(door).iter().map(|path| path.join(".")).collect();
            assert_eq!(paths, expected, "{name} of {}", info.version);
        }
    }
    assert!(exceptions.is_empty(), "no such doors: {exceptions:?}");
}

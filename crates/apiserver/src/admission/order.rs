//! Which admission plugins there are, in which order they are called, and which are on by themselves
//! (`pkg/kubeapiserver/options/plugins.go`: `AllOrderedPlugins`, `DefaultOffAdmissionPlugins`).

/// Names in order, and whether each is on where nothing is said. Names that no file here implements are known all the
/// same, so that the flags of a stock API server are understood: those are either the plugins of kinds that are not
/// served (`ClusterTrustBundleAttest`, `PodGroupProtection`, `PodGroupWorkloadExists`, `JobValidation`), or act on
/// features that are off (`NodeDeclaredFeatureValidator`, `PodResizeValidator`).
pub const ORDER: &[(&str, bool)] = &[
    ("AlwaysAdmit", false),
    ("NamespaceAutoProvision", false),
    ("NamespaceLifecycle", true),
    ("NamespaceExists", false),
    ("LimitPodHardAntiAffinityTopology", false),
    ("LimitRanger", true),
    ("ServiceAccount", true),
    // Off upstream, on with every installer; joined nodes rely on it here.
    ("NodeRestriction", true),
    ("TaintNodesByCondition", true),
    ("AlwaysPullImages", false),
    ("ImagePolicyWebhook", false),
    ("PodSecurity", true),
    ("PodNodeSelector", false),
    ("Priority", true),
    ("DefaultTolerationSeconds", true),
    ("PodTolerationRestriction", false),
    ("EventRateLimit", false),
    ("ExtendedResourceToleration", false),
    ("DefaultStorageClass", true),
    ("StorageObjectInUseProtection", true),
    ("PodGroupProtection", true),
    ("OwnerReferencesPermissionEnforcement", false),
    ("PersistentVolumeClaimResize", true),
    ("RuntimeClass", true),
    ("CertificateApproval", true),
    ("CertificateSigning", true),
    ("ClusterTrustBundleAttest", true),
    ("CertificateSubjectRestriction", true),
    ("DefaultIngressClass", true),
    ("DenyServiceExternalIPs", false),
    ("PodTopologyLabels", true),
    ("PodGroupWorkloadExists", true),
    ("NodeDeclaredFeatureValidator", true),
    ("JobValidation", true),
    ("PodResizeValidator", true),
    ("MutatingAdmissionPolicy", true),
    ("MutatingAdmissionWebhook", true),
    ("ValidatingAdmissionPolicy", true),
    ("ValidatingAdmissionWebhook", true),
    ("ResourceQuota", true),
    ("AlwaysDeny", false),
];

/// The place of a plugin; unknown ones come last.
pub fn position(name: &str) -> usize {
    ORDER.iter().position(|(n, _)| *n == name).unwrap_or(usize::MAX)
}

/// Whether a plugin is on.
pub fn is_on(name: &str, enable: &[String], disable: &[String]) -> bool {
    let standard = ORDER.iter().any(|(n, on)| *n == name && *on);
    (standard || enable.iter().any(|n| n == name)) && !disable.iter().any(|n| n == name)
}

/// Refuses names that are unknown, and names that are both enabled and disabled
/// (`k8s.io/apiserver/pkg/server/options.AdmissionOptions.Validate`).
pub fn check_names(enable: &[String], disable: &[String]) -> Result<(), String> {
    let mut both: Vec<&str> = enable.iter().filter(|n| disable.contains(n)).map(String::as_str).collect();
    both.sort_unstable();
    both.dedup();
    if !both.is_empty() {
        let both = both.join(" ");
        return Err(format!("[{both}] in enable-admission-plugins and disable-admission-plugins overlapped"));
    }
    for (flag, names) in [("enable-admission-plugins", enable), ("disable-admission-plugins", disable)] {
        if let Some(name) = names.iter().find(|n| position(n) == usize::MAX) {
            return Err(format!("{flag} plugin {name:?} is unknown"));
        }
    }
    if enable.iter().any(|n| n == "ImagePolicyWebhook") {
        return Err("enable-admission-plugins plugin \"ImagePolicyWebhook\" is not available in orkd".into());
    }
    Ok(())
}

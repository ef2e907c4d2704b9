//! `Job`. Upstream: `pkg/registry/batch/job/strategy.go`, `pkg/apis/batch/validation`.

use serde_json::{Value, json};

use super::job_status;
use crate::core::pod::defaults;
use crate::field::{ErrorList, quote};
use crate::kind::Kind;
use crate::kind::{Cells, Cx, Dependents, MetaPass, Name};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, items_mut, list, restore, same, set, text};
use crate::strategy::{first_generation, reset_spec_or_status, separate_status};
use crate::table::{age, containers_and_images, elapsed, label_selector, name};
use crate::validate::pod_spec::{self, warnings};
use crate::validate::{go_value, immutable_field, internal, non_negative, selector};

/// The kind `Job`.
pub struct Job;

/// What a deletion is told that does not say what becomes of the pods (`deleteOptionWarnings`).
const PODS_STAY: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
                         remove them or set propagationPolicy=Orphan to suppress this warning";

impl Kind for Job {
    facts!(Facts {
        kind: "Job",
        plural: "jobs",
        categories: &["all"],
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Status", "string", "", 0),
            ("Completions", "string", "", 0),
            ("Duration", "string", "", 0),
            AGE,
            ("Containers", "string", "", 1),
            ("Images", "string", "", 1),
            ("Selector", "string", "", 1)
        ],
        ..Facts::namespaced("batch", "v1")
    });

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::New, MetaPass::Changed])
    }

    fn dependents(&self) -> Dependents {
        Dependents::Orphan(Some(PODS_STAY))
    }

    fn default(&self, obj: &mut Value) {
        defaults::template(obj);
        if let Some(spec) = at_mut(obj, &["spec"]) {
            if at(spec, &["completions"]).is_null() && at(spec, &["parallelism"]).is_null() {
                set(spec, &["completions"], 1);
            }
            default_value(spec, "parallelism", 1);
            let per_index = !at(spec, &["backoffLimitPerIndex"]).is_null();
            default_value(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
            default_value(spec, "completionMode", "NonIndexed");
            default_value(spec, "suspend", false);
            default_value(spec, "manualSelector", false);
            let failure_policy = !at(spec, &["podFailurePolicy"]).is_null();
            default_value(spec, "podReplacementPolicy", if failure_policy { "Failed" } else { "TerminatingOrFailed" });
            if let Some(policy) = at_mut(spec, &["podFailurePolicy"]) {
                for rule in items_mut(policy, "rules") {
                    for pattern in items_mut(rule, "onPodConditions") {
                        default_text(pattern, "status", "True");
                    }
                }
            }
        }
        labels_of_template(obj);
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({}));
        first_generation(obj);
        generate_selector(obj);
        labels_of_template(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        separate_status(new, old, cx.subresource);
    }

    fn validate(&self, cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        generated(&mut errs, obj, true);
        errs.extend(spec(cx, obj, false));
        hostname(&mut errs, obj);
        errs
    }

    /// Upstream checks the spec twice, as that of a new job and as that of a changed one.
    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            return job_status::update(new, old);
        }
        let mut errs = ErrorList::new();
        let now = View::root(new).get("spec");
        let before = View::root(old).dig("spec.template.metadata.labels");
        let had_prefixed = [UID_LABELS[1], NAME_LABELS[1]].iter().all(|label| before.get(label).is_set());
        let unchanged = same(at(old, &["spec", "template"]), now.get("template").value());
        generated(&mut errs, new, had_prefixed);
        let of_spec = spec(cx, new, unchanged);
        errs.extend(of_spec.clone());
        hostname(&mut errs, new);
        errs.extend(of_spec);
        // The completions of an indexed job follow its parallelism; that they are there is checked above.
        let (completions, parallelism) = (now.get("completions"), now.get("parallelism"));
        if text(new, &["spec", "completionMode"]) != "Indexed" {
            immutable_field(&mut errs, new, old, &["spec", "completions"]);
        } else if completions.is_set()
            && !same(completions.value(), at(old, &["spec", "completions"]))
            && !same(completions.value(), parallelism.value())
        {
            errs.invalid(
                completions.path(),
                completions.value(),
                format!("can only be modified in tandem with {}", parallelism.path()),
            );
        }
        immutable_field(&mut errs, new, old, &["spec", "selector"]);
        template_update(&mut errs, &now, old);
        const POLICIES: [(&str, &str); 2] = [
            ("podFailurePolicy", "k8s.io/api/batch/v1.PodFailurePolicy"),
            ("successPolicy", "k8s.io/api/batch/v1.SuccessPolicy"),
        ];
        for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
            let v = now.get(field);
            if same(v.value(), at(old, &["spec", field])) {
                continue;
            }
            match POLICIES.iter().find(|(name, _)| *name == field).filter(|_| v.is_set()) {
                Some((_, ty)) => errs.invalid(v.path(), go_value::shown(ty, v.value()), "field is immutable"),
                None => errs.invalid(v.path(), v.value(), "field is immutable"),
            }
        }
        errs
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") {
            return Vec::new();
        }
        let mut warnings = warnings::pod_name(new, old, "Pod names and hostnames");
        warnings.extend(spec_warnings("spec", new, old));
        warnings
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        let succeeded = at(obj, &["status", "succeeded"]).as_i64().unwrap_or_default();
        vec![("status.successful".into(), succeeded.to_string())]
    }

    fn field_label<'l>(&self, label: &'l str) -> Result<&'l str, String> {
        match label {
            "metadata.name" | "metadata.namespace" | "status.successful" => Ok(label),
            _ => Err(format!("field label {} not supported for batchv1.Job", quote(label))),
        }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let number = |path: &[&str]| at(obj, path).as_i64();
        let done = number(&["status", "succeeded"]).unwrap_or_default();
        let completions = match (number(&["spec", "completions"]), number(&["spec", "parallelism"])) {
            (Some(wanted), _) => format!("{done}/{wanted}"),
            (None, Some(n)) if n > 1 => format!("{done}/1 of {n}"),
            _ => format!("{done}/1"),
        };
        let time = |field: &str| text(obj, &["status", field]).parse::<jiff::Timestamp>().ok();
        let duration =
            time("startTime").map_or_else(String::new, |start| elapsed(start, time("completionTime").unwrap_or(now)));
        let (containers, images) = containers_and_images(at(obj, &["spec", "template", "spec"]));
        vec![
            json!(name(obj)),
            json!(status(obj)),
            json!(completions),
            json!(duration),
            json!(age(obj, now)),
            json!(containers),
            json!(images),
            json!(label_selector(at(obj, &["spec", "selector"]))),
        ]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// A job without labels has those of its pods.
fn labels_of_template(obj: &mut Value) {
    let labels = at(obj, &["spec", "template", "metadata", "labels"]).clone();
    if labels.as_object().is_some_and(|m| !m.is_empty()) && same(at(obj, &["metadata", "labels"]), &Value::Null) {
        set(obj, &["metadata", "labels"], labels);
    }
}

/// Unless the client chose itself, a job selects its pods by its own uid. Upstream: `generateSelectorIfNeeded`.
fn generate_selector(obj: &mut Value) {
    if at(obj, &["spec", "manualSelector"]) == &Value::Bool(true) {
        return;
    }
    let (uid, job) = (text(obj, &["metadata", "uid"]).to_owned(), text(obj, &["metadata", "name"]).to_owned());
    for (labels, value) in [(UID_LABELS, &uid), (NAME_LABELS, &job)] {
        for label in labels {
            let path = ["spec", "template", "metadata", "labels", label];
            // What a client set already is left to the check that follows.
            if at(obj, &path).is_null() {
                set(obj, &path, value.as_str());
            }
        }
    }
    let selector = ["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"];
    if at(obj, &selector).is_null() {
        set(obj, &selector, uid);
    }
}

/// The generated selector and labels are those of this job. Jobs from before the labels had a prefix have none.
/// Upstream: `validateGeneratedSelector`.
fn generated(errs: &mut ErrorList, obj: &Value, prefixed: bool) {
    let root = View::root(obj);
    let (chosen, uid) = (root.dig("spec.selector"), root.dig("metadata.uid"));
    if root.dig("spec.manualSelector").is_true() || !chosen.is_set() {
        return;
    }
    if uid.is_empty() {
        errs.required(uid.path(), "");
    }
    let labels = root.dig("spec.template.metadata.labels");
    let mut expected = serde_json::Map::new();
    for i in 0..=usize::from(prefixed) {
        for (label, value) in [(UID_LABELS[i], uid.str()), (NAME_LABELS[i], root.dig("metadata.name").str())] {
            let v = labels.get(label);
            let path = labels.path().key(label);
            if !v.is_set() {
                errs.required(&path, format!("must be '{value}'"));
            } else if v.str() != value {
                errs.invalid(&path, labels.value(), format!("must be '{value}'"));
            }
            expected.insert(label.to_owned(), value.into());
        }
    }
    let mut malformed = ErrorList::new();
    selector::label_selector(&mut malformed, &chosen);
    if malformed.is_empty() && !selector::matches(chosen.value(), &expected.into()) {
        errs.invalid(chosen.path(), chosen.value(), "`selector` not auto-generated");
    }
}

/// The spec of a job, its selector included. Upstream: `ValidateJobSpec`.
fn spec(cx: &Cx<'_>, obj: &Value, unchanged: bool) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    job_spec(&mut errs, cx, &spec, unchanged);
    let chosen = spec.get("selector");
    if chosen.is_set() {
        selector::label_selector(&mut errs, &chosen);
    } else {
        errs.required(chosen.path(), "");
    }
    crate::validate::workload::selects_template(&mut errs, &spec);
    errs
}

/// The pods of an indexed job have its name and their index as host name.
fn hostname(errs: &mut ErrorList, obj: &Value) {
    let (name, spec) = (View::root(obj).dig("metadata.name"), View::root(obj).get("spec"));
    if spec.get("completionMode").str() != "Indexed" {
        return;
    }
    let Some(last) = spec.get("completions").int().filter(|n| *n > 0).map(|n| n - 1) else { return };
    let hostname = format!("{}-{last}", name.str());
    if !crate::names::dns_label(&hostname, false).is_empty() {
        let problem = format!("will not able to create pod with invalid DNS label: {hostname}");
        errs.invalid(name.path(), name.str(), problem);
    }
}

/// Warnings about the spec of a job at a path, where the object's generation is new. Upstream: `WarningsForJobSpec`.
pub(super) fn spec_warnings(path: &'static str, new: &Value, old: Option<&Value>) -> Vec<String> {
    const MANY: &str = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
                        Kubernetes might not be able to track completedIndexes when a big number of indexes fail";
    let generation = |obj| at(obj, &["metadata", "generation"]);
    if old.is_some_and(|old| generation(old) == generation(new)) {
        return Vec::new();
    }
    let spec = View::root(new).dig(path);
    let above = |field, limit| spec.get(field).int().is_some_and(|n| n > limit);
    let mut warnings = Vec::new();
    if spec.get("completionMode").str() == "Indexed" && above("completions", 100_000) && above("parallelism", 10_000) {
        warnings.push(format!("{path}: {MANY}"));
    }
    warnings.extend(warnings::template_of(&spec.get("template")));
    warnings
}

/// The spec of a job, also of those a cron job makes. `unchanged`: the template is that of before.
pub(super) fn job_spec(errs: &mut ErrorList, cx: &Cx<'_>, spec: &View<'_>, unchanged: bool) {
    const NUMBERS: [&str; 7] = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for field in NUMBERS {
        non_negative(errs, &spec.get(field));
    }
    let per_index = spec.get("backoffLimitPerIndex");
    if spec.get("maxFailedIndexes").is_set() && !per_index.is_set() {
        errs.required(per_index.path(), "when maxFailedIndexes is specified");
    }
    managed_by(errs, &spec.get("managedBy"));
    let (mode, completions) = (spec.get("completionMode"), spec.get("completions"));
    match mode.opt_str() {
        None | Some("NonIndexed") => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                let v = spec.get(field);
                if let Some(n) = v.int() {
                    errs.invalid(v.path(), n, "requires indexed completion mode");
                }
            }
        }
        Some("Indexed") => {
            if !completions.is_set() {
                errs.required(completions.path(), "when completion mode is Indexed");
            }
            indexed(errs, spec);
        }
        Some(other) => errs.not_supported(mode.path(), other, &["NonIndexed", "Indexed"]),
    }
    failure_policy(errs, spec);
    success_policy(errs, spec);
    let replacement = spec.get("podReplacementPolicy");
    if replacement.is_set() && spec.get("podFailurePolicy").is_set() {
        if replacement.str() != "Failed" {
            errs.not_supported(replacement.path(), replacement.str(), &["Failed"]);
        }
    } else if replacement.is_set() && !matches!(replacement.str(), "Failed" | "TerminatingOrFailed") {
        errs.not_supported(replacement.path(), replacement.str(), &["Failed", "TerminatingOrFailed"]);
    }
    let template = spec.get("template");
    pod_spec::template(errs, cx, &template, unchanged);
    let policy = template.dig("spec.restartPolicy");
    match policy.str() {
        "OnFailure" | "Never" => {}
        "" | "Always" => errs.required(policy.path(), "valid values: \"OnFailure\", \"Never\""),
        other => errs.not_supported(policy.path(), other, &["OnFailure", "Never"]),
    }
    if spec.get("podFailurePolicy").is_set() && policy.str() == "OnFailure" {
        errs.invalid(policy.path(), policy.str(), "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

/// Limits on the numbers of an indexed job.
fn indexed(errs: &mut ErrorList, spec: &View<'_>) {
    const MOST: i64 = 100_000;
    const FEW: i64 = 10_000;
    let (parallelism, completions) = (spec.get("parallelism"), spec.get("completions").int());
    let mut at_most = |v: &View<'_>, most: i64, what: &str| {
        if let Some(n) = v.int().filter(|n| *n > most) {
            errs.invalid(v.path(), n, format!("must be less than or equal to {what}"));
        }
    };
    at_most(&parallelism, MOST, &format!("{MOST} when completion mode is Indexed"));
    let failed = spec.get("maxFailedIndexes");
    if let Some(completions) = completions {
        at_most(&failed, completions, "completions");
    }
    at_most(&failed, MOST, &MOST.to_string());
    if spec.get("backoffLimitPerIndex").is_set() && completions.is_some_and(|n| n > MOST) {
        if !failed.is_set() {
            errs.required(failed.path(), format!("must be specified when completions is above {MOST}"));
        }
        let rule = format!(
            "must be less than or equal to {FEW} when completions are above {MOST} and used with backoff limit per index"
        );
        for v in [parallelism, failed] {
            if let Some(n) = v.int().filter(|n| *n > FEW) {
                errs.invalid(v.path(), n, rule.as_str());
            }
        }
    }
}

/// When an indexed job has succeeded before all its pods have.
fn success_policy(errs: &mut ErrorList, spec: &View<'_>) {
    let policy = spec.get("successPolicy");
    if !policy.is_set() {
        return;
    }
    if spec.get("completionMode").str() != "Indexed" {
        let shown = internal::shown_list(internal::SUCCESS_RULE, policy.get("rules").value()).below("Rules");
        errs.invalid(policy.path(), shown, "requires indexed completion mode");
        return;
    }
    let rules = policy.get("rules");
    if rules.is_empty() {
        errs.required(rules.path(), "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > 20 {
        errs.too_many(rules.path(), rules.len(), 20);
    }
    for rule in rules.list() {
        let (indexes, count) = (rule.get("succeededIndexes"), rule.get("succeededCount"));
        if !indexes.is_set() && !count.is_set() {
            errs.required(rule.path(), "at least one of succeededCount or succeededIndexes must be specified");
        }
        let completions = spec.get("completions").int().unwrap_or_default();
        let mut total = 0;
        if indexes.len() > 64 * 1024 {
            errs.too_long(indexes.path(), 64 * 1024);
        }
        if let Some(text) = indexes.opt_str() {
            match indexes_of(text, completions) {
                Ok(n) => total = n,
                Err(why) => errs.invalid(indexes.path(), text, format!("error parsing succeededIndexes: {why}")),
            }
        }
        let Some(n) = count.int() else { continue };
        non_negative(errs, &count);
        if n > completions {
            let rule = format!("must be less than or equal to {completions} (the number of specified completions)");
            errs.invalid(count.path(), n, rule);
        }
        if indexes.is_set() && n > total {
            let what = "the number of indexes in the specified succeededIndexes field";
            errs.invalid(count.path(), n, format!("must be less than or equal to {total} ({what})"));
        }
    }
}

/// How many indexes a text as `1,3-5` names. Upstream: `validateIndexesFormat`.
fn indexes_of(text: &str, completions: i64) -> Result<i64, String> {
    Ok(intervals(text, completions)?.iter().map(|(first, last)| last - first + 1).sum())
}

/// The intervals that a text as `1,3-5` names, in order. Upstream: `validateIndexesFormat`.
pub(super) fn intervals(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut found: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some((_, before)) = found.last().filter(|(_, before)| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        found.push((first, last));
    }
    Ok(found)
}

/// One interval, or one index. Upstream: `parseIndexInterval`.
pub(super) fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |bound: &str| {
        let shown = crate::field::quote(bound);
        match bound.parse::<i64>() {
            Err(_) => Err(format!("cannot convert string to integer for index: {shown}")),
            Ok(n) if n >= completions => Err(format!("too large index: {shown}")),
            Ok(n) => Ok(n),
        }
    };
    match part.split('-').collect::<Vec<_>>().as_slice() {
        [one] => index(one).map(|n| (n, n)),
        [first, last] => match (index(first)?, index(last)?) {
            (first, last) if first >= last => Err(format!("non-increasing order, previous: {first}, current: {last}")),
            bounds => Ok(bounds),
        },
        _ => Err(format!(
            "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
            crate::field::quote(part)
        )),
    }
}

/// Who looks after the job, where it is not the controller: a path in a domain. Upstream: `IsDomainPrefixedPath`.
fn managed_by(errs: &mut ErrorList, v: &View<'_>) {
    if !v.is_set() {
        return;
    }
    match v.str().split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) {
        None if v.is_empty() => errs.required(v.path(), ""),
        None => errs.invalid(v.path(), v.str(), "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        Some((host, path)) => {
            for problem in crate::names::dns_subdomain(host, false) {
                errs.invalid(v.path(), host, problem);
            }
            if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
                const FORM: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
                errs.invalid(v.path(), path, format!("Invalid path (regex used for validation is '{FORM}')"));
            }
        }
    }
    if v.len() > 63 {
        errs.too_long(v.path(), 63);
    }
}

fn failure_policy(errs: &mut ErrorList, spec: &View<'_>) {
    let rules = spec.dig("podFailurePolicy.rules");
    if rules.len() > 20 {
        errs.too_many(rules.path(), rules.len(), 20);
    }
    for rule in rules.list() {
        let (action, codes, conditions) = (rule.get("action"), rule.get("onExitCodes"), rule.get("onPodConditions"));
        match action.str() {
            "" => errs.required(action.path(), "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
            "FailIndex" if !spec.get("backoffLimitPerIndex").is_set() => {
                errs.invalid(action.path(), action.str(), "requires the backoffLimitPerIndex to be set")
            }
            "Count" | "FailIndex" | "FailJob" | "Ignore" => {}
            other => errs.not_supported(action.path(), other, &["Count", "FailIndex", "FailJob", "Ignore"]),
        }
        if codes.is_set() {
            on_exit_codes(errs, spec, &codes);
        }
        on_conditions(errs, &conditions);
        match (codes.is_set(), conditions.is_empty()) {
            (true, false) => {
                let problem = "specifying both OnExitCodes and OnPodConditions is not supported";
                errs.invalid_silently(rule.path(), problem);
            }
            (false, true) => {
                let problem = "specifying one of OnExitCodes and OnPodConditions is required";
                errs.invalid_silently(rule.path(), problem);
            }
            _ => {}
        }
    }
}

/// Upstream: `validatePodFailurePolicyRuleOnExitCodes`.
fn on_exit_codes(errs: &mut ErrorList, spec: &View<'_>, codes: &View<'_>) {
    let (operator, values, container) = (codes.get("operator"), codes.get("values"), codes.get("containerName"));
    match operator.str() {
        "In" | "NotIn" => {}
        "" => errs.required(operator.path(), "valid values: [\"In\" \"NotIn\"]"),
        other => errs.not_supported(operator.path(), other, &["In", "NotIn"]),
    }
    if let Some(name) = container.opt_str() {
        let pod = spec.dig("template.spec");
        let mut all = ["containers", "initContainers"].iter().flat_map(|list| pod.items(list));
        if !all.any(|c| c.get("name").str() == name) {
            let problem = "must be one of the container or initContainer names in the pod template";
            errs.invalid(container.path(), name, problem);
        }
    }
    if values.is_empty() {
        errs.invalid(values.path(), values.value(), "at least one value is required");
    } else if values.len() > 255 {
        errs.too_many(values.path(), values.len(), 255);
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut last = i64::MIN;
    let mut ordered = true;
    for value in values.list() {
        let n = value.int().unwrap_or_default();
        if n == 0 && operator.str() == "In" {
            errs.invalid(value.path(), n, "must not be 0 for the In operator");
        }
        if !seen.insert(n) {
            errs.duplicate(value.path(), n);
        }
        ordered &= n >= last;
        last = n;
    }
    if !ordered {
        errs.invalid(values.path(), values.value(), "must be ordered");
    }
}

/// Upstream: `validatePodFailurePolicyRuleOnPodConditions`.
fn on_conditions(errs: &mut ErrorList, conditions: &View<'_>) {
    if conditions.len() > 20 {
        errs.too_many(conditions.path(), conditions.len(), 20);
    }
    for pattern in conditions.list() {
        let (ty, status) = (pattern.get("type"), pattern.get("status"));
        crate::validate::labels::name(errs, ty.str(), ty.path());
        match status.str() {
            "False" | "True" | "Unknown" => {}
            "" => errs.required(status.path(), "valid values: [\"False\" \"True\" \"Unknown\"]"),
            other => errs.not_supported(status.path(), other, &["False", "True", "Unknown"]),
        }
    }
}

/// The template stays, but while a job stands still where its pods may go and what they ask for can still change
/// (`MutableSchedulingDirectivesForSuspendedJobs`, `MutablePodResourcesForSuspendedJobs`).
fn template_update(errs: &mut ErrorList, spec: &View<'_>, old: &Value) {
    let mut munged = spec.get("template").value().clone();
    let before = at(old, &["spec", "template"]);
    let suspended =
        list(old, &["status", "conditions"]).iter().any(|c| c["type"] == "Suspended" && c["status"] == "True");
    let never_started = at(old, &["status", "startTime"]).is_null();
    let waiting = at(old, &["spec", "suspend"]) == &Value::Bool(true) && (never_started || suspended);
    if waiting {
        for field in ["containers", "initContainers"] {
            let old_containers = list(before, &["spec", field]).to_vec();
            if let Some(spec) = at_mut(&mut munged, &["spec"]) {
                for (container, old) in items_mut(spec, field).zip(&old_containers) {
                    restore(container, old, &["resources"]);
                }
            }
        }
        for path in [
            &["metadata", "annotations"] as &[&str],
            &["metadata", "labels"],
            &["spec", "nodeSelector"],
            &["spec", "affinity", "nodeAffinity"],
            &["spec", "tolerations"],
            &["spec", "schedulingGates"],
        ] {
            restore(&mut munged, before, path);
        }
    }
    if !same(&munged, before) {
        let shown = go_value::shown("k8s.io/api/core/v1.PodTemplateSpec", spec.get("template").value());
        errs.invalid(spec.get("template").path(), shown, "field is immutable");
    }
}

/// Upstream: `printJob`.
fn status(obj: &Value) -> &'static str {
    let has = |ty: &str| list(obj, &["status", "conditions"]).iter().any(|c| c["type"] == ty && c["status"] == "True");
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if !at(obj, &["metadata", "deletionTimestamp"]).is_null() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Features;

    #[test]
    fn a_job_selects_its_pods_by_its_uid() {
        let features = Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "t", features: &features };
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        Job.default(&mut job);
        Job.prepare_create(&cx, &mut job);
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
        assert_eq!(job["metadata"]["labels"]["job-name"], "j");
        assert_eq!(Job.validate(&cx, &job), ErrorList::new());
    }

    #[test]
    fn a_job_that_stands_still_can_be_placed_anew() {
        let features = Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "t", features: &features };
        let mut old = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": {"suspend": true,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        Job.default(&mut old);
        Job.prepare_create(&cx, &mut old);
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "fast"});
        new["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
        let problems = |old: &Value| Job.validate_update(&cx, &new, old).0.len();
        assert_eq!(problems(&old), 0);
        old["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
        assert_eq!(problems(&old), 1);
        old["status"]["conditions"] = json!([{"type": "Suspended", "status": "True"}]);
        assert_eq!(problems(&old), 0);
        old["spec"]["suspend"] = false.into();
        assert_eq!(problems(&old), 1);
    }

    /// The problems of a job with these fields, defaults applied.
    fn problems(fields: Value) -> Vec<String> {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        for (key, value) in fields.as_object().into_iter().flatten() {
            job["spec"][key] = value.clone();
        }
        Job.default(&mut job);
        crate::validate::testing::with_cx(None, |cx| Job.prepare_create(cx, &mut job));
        crate::validate::testing::problems(&Job, &job)
    }

    #[test]
    fn policies_fit_the_mode() {
        assert_eq!(
            problems(json!({"successPolicy": {"rules": [{}]}})),
            [
                "spec.successPolicy: Invalid value: {\"Rules\":[{\"SucceededIndexes\":null,\"SucceededCount\":null}]}: requires \
                 indexed completion mode"
            ]
        );
        let indexed = |policy: Value| {
            problems(json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [policy]}}))
        };
        assert_eq!(indexed(json!({"succeededIndexes": "0,2", "succeededCount": 2})), [""; 0]);
        assert_eq!(
            indexed(json!({})),
            [
                "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            ]
        );
        assert_eq!(
            indexed(json!({"succeededIndexes": "1", "succeededCount": 2})),
            [
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 2: must be less than or equal to 1 (the number of \
                 indexes in the specified succeededIndexes field)",
            ]
        );
        assert_eq!(
            indexed(json!({"succeededIndexes": "3"})),
            [
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"3\": error parsing succeededIndexes: too large index: \"3\"",
            ]
        );
        assert_eq!(
            problems(json!({"managedBy": "x"})),
            ["spec.managedBy: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",]
        );
        assert_eq!(
            problems(json!({"podReplacementPolicy": "TerminatingOrFailed", "podFailurePolicy": {"rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1], "containerName": "x"}}]}})),
            [
                "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or \
                 initContainer names in the pod template",
                "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
            ]
        );
        assert_eq!(
            problems(json!({"completionMode": "Indexed", "completions": 2, "maxFailedIndexes": 3})),
            [
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.maxFailedIndexes: Invalid value: 3: must be less than or equal to completions",
            ]
        );
    }
}

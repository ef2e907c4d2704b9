//! `docs/evidence/` names a test for each promise; a test that was renamed or removed must not be named any longer.

use std::path::Path;

/// The tests a page names: the `path/to/file.rs::function` between backticks.
fn named(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.split('`').skip(1).step_by(2).filter_map(|code| code.split_once(".rs::"))
}

/// Whether a source file defines a function of that name; a test inside a module may be named with its path.
fn defines(source: &str, test: &str) -> bool {
    let name = test.rsplit("::").next().unwrap_or(test);
    source.match_indices(&format!("fn {name}")).any(|(at, found)| source[at + found.len()..].starts_with(['(', '<']))
}

#[test]
fn each_test_named_as_evidence_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut missing = Vec::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(root.join("docs/evidence")).expect("docs/evidence is a folder") {
        let page = entry.expect("a page can be listed").path();
        let text = std::fs::read_to_string(&page).expect("a page is text");
        for (file, test) in named(&text) {
            seen += 1;
            let source = std::fs::read_to_string(root.join(file).with_extension("rs")).unwrap_or_default();
            if !defines(&source, test) {
                missing.push(format!("{}: {file}.rs::{test}", page.display()));
            }
        }
    }
    assert!(seen > 0, "no page of docs/evidence names a test");
    assert!(missing.is_empty(), "evidence that is no longer there:\n{}", missing.join("\n"));
}

#[test]
fn a_name_is_found_whole() {
    assert_eq!(
        named("| x | `a/b.rs::c`, `cargo xtask bench`, `d.rs::m::e` |").collect::<Vec<_>>(),
        [("a/b", "c"), ("d", "m::e")]
    );
    assert!(defines("#[test]\nfn c() {}", "c") && defines("async fn e<T>() {}", "m::e"));
    assert!(!defines("fn cc() {}", "c") && !defines("fn c2() {}", "c"));
}

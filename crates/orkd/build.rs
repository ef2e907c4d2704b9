//! How the release binary is linked where the linker is LLVM's, as Rust ships it for this target.
//!
//! Pages of the binary are most of what an idle cluster holds in memory, and most of its 90,000 relocations would make
//! pages of it the process's own. So it is linked for a fixed address, as Go links the stock components, and functions
//! that came out the same are kept once (docs/operations/numbers.md).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    if is("TARGET", "x86_64-unknown-linux-gnu") && is("PROFILE", "release") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}

//! The allocator and its one setting.
//!
//! mimalloc reserves a gibibyte of address space and, as it ships, makes all of it usable at once and asks the kernel for
//! huge pages in it. On an idle cluster most of such a huge page stays empty: 14 MB of resident memory for nothing. Told
//! not to commit eagerly, it makes memory usable in small steps as it is needed.

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_arena_eager_commit` of mimalloc 3 (`mi_option_e` in its `mimalloc.h`).
const ARENA_EAGER_COMMIT: c_int = 4;

unsafe extern "C" {
    fn mi_option_set_default(option: c_int, value: c_long);
    #[cfg(test)]
    fn mi_option_get(option: c_int) -> c_long;
}

/// Runs before the first allocation of the program: mimalloc reads the setting once. Variables of the environment
/// (`MIMALLOC_ARENA_EAGER_COMMIT`) still win.
extern "C" fn settle() {
    // SAFETY: an exported function of mimalloc that changes an option in its static table; nothing runs beside it yet.
    unsafe { mi_option_set_default(ARENA_EAGER_COMMIT, 0) }
}

#[used]
#[unsafe(link_section = ".init_array")]
static SETTLE: extern "C" fn() = settle;

#[cfg(test)]
mod tests {
    use super::*;

    /// The number names the option we mean: mimalloc's own name for it, in the environment, reaches it.
    #[test]
    fn the_option_is_the_one_we_mean() {
        const MARK: &str = "MIMALLOC_ARENA_EAGER_COMMIT";
        // SAFETY: reads mimalloc's static table.
        let value = || unsafe { mi_option_get(ARENA_EAGER_COMMIT) };
        if std::env::var_os(MARK).is_some() {
            assert_eq!(value(), 2);
            return;
        }
        assert_eq!(value(), 0);
        let status = std::process::Command::new(std::env::current_exe().expect("a process knows its file"))
            .args(["--exact", "allocator::tests::the_option_is_the_one_we_mean"])
            .env(MARK, "2")
            .status()
            .expect("it starts");
        assert!(status.success());
    }
}

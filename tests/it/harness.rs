//! The harness itself: machines see each other, and end whole.

use std::time::Duration;

use anyhow::Result;
use orkd_tests::machine::Switch;
use orkd_tests::{eventually, is_root};

#[test]
fn machines_see_each_other_and_end_whole() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let switch = Switch::new()?;
    let (one, two) = (switch.machine("one")?, switch.machine("two")?);
    assert_eq!(one.sh("hostname")?.trim(), "one");
    let args = ["-ec".to_owned(), "echo hi | socat -u - TCP-LISTEN:7000,reuseaddr".to_owned()];
    let server = one.spawn("sh".as_ref(), &args, "log")?;
    let greeting = eventually("an answer from the other machine", Duration::from_secs(10), || {
        two.sh(&format!("socat -u TCP:{}:7000 -", one.ip)).map_err(|e| e.to_string())
    })?;
    assert_eq!(greeting.trim(), "hi");
    drop(server);

    let mut sleeper = one.spawn("sleep".as_ref(), &["1000".to_owned()], "log")?;
    drop(one);
    sleeper.wait(Duration::from_secs(10))?;
    Ok(())
}

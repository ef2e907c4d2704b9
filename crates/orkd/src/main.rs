//! orkd
fn main() {}

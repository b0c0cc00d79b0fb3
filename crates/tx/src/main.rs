//! tx
fn main() {}

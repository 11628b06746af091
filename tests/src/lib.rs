//! What the tests that need a kernel are made of: a burn server, a load driver and a harness around both.

pub mod burn;
pub mod cases;
pub mod harness;
pub mod load;
pub mod measure;
pub mod shop;
pub mod skip;

//! What the tests that need a kernel are made of: a burn server, a load driver, the real agent and a harness around
//! them.

pub mod agent;
pub mod bench;
pub mod burn;
pub mod cases;
pub mod endpoint;
pub mod harness;
pub mod load;
pub mod measure;
pub mod servers;
pub mod shop;
pub mod skip;
pub mod soak;
pub mod stand_in;
pub mod window;

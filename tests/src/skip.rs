//! A kernel test that cannot run says so, and where nothing may be skipped it fails.

use nix::unistd::Uid;
use watchdog::kernel::{Kernel, KernelOptions};

/// The loaded programs; `None` (after saying why) when this user may not load any.
pub fn kernel_or_skip(options: &KernelOptions) -> Option<Kernel> {
    if Uid::effective().is_root() {
        return Some(Kernel::load(options).unwrap_or_else(|error| panic!("{error}")));
    }
    skip("loading kernel programs needs root")
}

/// Says why a test cannot run. With `CI` set, nothing may be skipped.
pub fn skip<T>(why: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "cannot run here, and CI skips nothing: {why}");
    eprintln!("SKIPPED: {why}");
    None
}

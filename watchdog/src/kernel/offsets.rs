//! Offsets of kernel fields, from the running kernel's own type information.

use btf_rs::{Btf, Struct, Type};
use watchdog_common::abi::global;

use super::KernelError;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Global name and offset in bytes, for the loader.
pub(super) fn resolve() -> Result<Vec<(&'static str, u32)>, KernelError> {
    let btf = Btf::from_file(VMLINUX).map_err(|error| KernelError::Cannot {
        what: format!("reading the kernel's type information from {VMLINUX}"),
        why: error.to_string(),
        remedy: "the kernel must be built with CONFIG_DEBUG_INFO_BTF=y (all current distributions' are)"
            .into(),
    })?;
    let wanted: [(&str, &str, &[&str]); 14] = [
        (global::TASK_PID, "task_struct", &["pid"]),
        (global::TASK_TGID, "task_struct", &["tgid"]),
        (global::TASK_SUM_EXEC, "task_struct", &["se", "sum_exec_runtime"]),
        (global::TASK_PREV_SUM_EXEC, "task_struct", &["se", "prev_sum_exec_runtime"]),
        (global::TASK_COMM, "task_struct", &["comm"]),
        (global::TASK_TLS, "task_struct", &["thread", "fsbase"]),
        (global::TASK_SIGNAL, "task_struct", &["signal"]),
        (global::SIGNAL_LIVE, "signal_struct", &["live"]),
        (global::SOCK_ADDRESS, "sock", &["__sk_common", "skc_rcv_saddr"]),
        (global::SOCK_PEER_ADDRESS, "sock", &["__sk_common", "skc_daddr"]),
        (global::SOCK_PORT, "sock", &["__sk_common", "skc_num"]),
        (global::SOCK_PEER_PORT, "sock", &["__sk_common", "skc_dport"]),
        (global::UNIX_PEER, "unix_sock", &["peer"]),
        (global::SOCKET_SK, "socket", &["sk"]),
    ];
    wanted
        .into_iter()
        .map(|(name, root, path)| {
            offset_of(&btf, root, path).map(|offset| (name, offset)).ok_or_else(|| KernelError::Cannot {
                what: format!("finding {root}.{} in the kernel's type information", path.join(".")),
                why: "there is no such field".into(),
                remedy: "this kernel is newer than this release knows, or heavily patched: please report it"
                    .into(),
            })
        })
        .collect()
}

/// Offset in bytes of a chain of members that begins at the struct `root`.
fn offset_of(btf: &Btf, root: &str, path: &[&str]) -> Option<u32> {
    let mut current = btf.resolve_types_by_name(root).ok()?.into_iter().find_map(|ty| match ty {
        Type::Struct(ty) => Some(ty),
        _ => None,
    })?;
    let mut offset = 0;
    for (depth, name) in path.iter().enumerate() {
        let (at, ty) = member(btf, &current, name)?;
        offset += at;
        if depth + 1 < path.len() {
            current = ty?;
        }
    }
    Some(offset)
}

/// A member by name, also inside anonymous structs and unions: its offset, and its type where that is a struct.
fn member(btf: &Btf, parent: &Struct, name: &str) -> Option<(u32, Option<Struct>)> {
    parent.members.iter().find_map(|candidate| {
        let at = candidate.bit_offset() / 8;
        let ty = match btf.resolve_chained_type(candidate) {
            Ok(Type::Struct(ty) | Type::Union(ty)) => Some(ty),
            _ => None,
        };
        let called = btf.resolve_name(candidate).unwrap_or_default();
        if called == name {
            return Some((at, ty));
        }
        if called.is_empty() {
            return member(btf, &ty?, name).map(|(inner, ty)| (at + inner, ty));
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_in_the_running_kernel() {
        let offsets = resolve().expect("this machine's kernel has type information");
        assert_eq!(offsets.len(), 14);
        let of = |name| offsets.iter().find(|(n, _)| *n == name).map(|(_, o)| *o);
        // pid and tgid are neighbours in every kernel since 2.6.
        assert_eq!(of(global::TASK_TGID), of(global::TASK_PID).map(|pid| pid + 4));
        assert_ne!(of(global::TASK_PREV_SUM_EXEC), of(global::TASK_SUM_EXEC));
    }
}

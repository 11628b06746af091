//! Whether a process's cgroups put it into a unit, or below a path.
//!
//! systemd names its cgroups after its units: a process of `web.service` has the unit as a whole component of its
//! path, below its slices (`/system.slice/web.service`), below an instance's slice
//! (`/system.slice/system-app.slice/app@1.service`) and above what a delegated service makes itself
//! (`/system.slice/web.service/worker`). That is so in systemd's own hierarchy (`name=systemd` of version 1, the
//! one without controllers of version 2); other controllers of version 1 may lag behind it.

use procfs::ProcessCGroup;

const SYSTEMD: &str = "name=systemd";

pub(super) fn in_unit(groups: &[ProcessCGroup], unit: &str) -> bool {
    groups
        .iter()
        .filter(|group| group.controllers.is_empty() || group.controllers.iter().any(|name| name == SYSTEMD))
        .any(|group| group.pathname.split('/').any(|component| component == unit))
}

/// Whether any hierarchy has the process in the cgroup or below it.
pub(super) fn below(groups: &[ProcessCGroup], path: &str) -> bool {
    groups.iter().any(|group| {
        group.pathname.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use procfs::{FromBufRead, ProcessCGroups};

    use super::*;

    const V2: &str = "0::/system.slice/web.service\n";
    const V2_DELEGATED: &str = "0::/system.slice/system-app.slice/app@1.service/worker\n";
    const HYBRID: &str = "12:pids:/system.slice/web.service\n\
        11:memory:/system.slice/web.service\n\
        3:cpu,cpuacct:/\n\
        1:name=systemd:/system.slice/web.service\n\
        0::/system.slice/web.service\n";
    const V1: &str = "9:memory:/user.slice\n\
        4:cpu,cpuacct:/system.slice/old.service\n\
        1:name=systemd:/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service\n";
    const CONTAINER: &str = "0::/system.slice/docker-4f1c0c3c2bd0a6d7.scope\n";

    fn groups(text: &str) -> Vec<ProcessCGroup> {
        ProcessCGroups::from_buf_read(text.as_bytes()).unwrap().0
    }

    #[test]
    fn units_are_whole_components_of_systemds_own_path() {
        for (text, unit, expected) in [
            (V2, "web.service", true),
            (V2, "system.slice", true),
            (V2, "eb.service", false),
            (V2, "web", false),
            (V2_DELEGATED, "app@1.service", true),
            (V2_DELEGATED, "system-app.slice", true),
            (V2_DELEGATED, "app@2.service", false),
            (HYBRID, "web.service", true),
            (V1, "shop.service", true),
            (V1, "user@1000.service", true),
            (V1, "old.service", false),
            (CONTAINER, "docker-4f1c0c3c2bd0a6d7.scope", true),
            ("", "web.service", false),
        ] {
            assert_eq!(in_unit(&groups(text), unit), expected, "{unit} in {text:?}");
        }
    }

    #[test]
    fn paths_match_whole_components_in_any_hierarchy() {
        for (text, path, expected) in [
            (V2, "/system.slice/web.service", true),
            (V2, "/system.slice", true),
            (V2, "/system.slice/web", false),
            (V2_DELEGATED, "/system.slice/system-app.slice/app@1.service/worker", true),
            (V2_DELEGATED, "/app@1.service", false),
            (V1, "/system.slice/old.service", true),
        ] {
            assert_eq!(below(&groups(text), path), expected, "{path} in {text:?}");
        }
    }
}

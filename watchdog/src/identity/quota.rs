//! How much CPU the cgroups of a process may use.
//!
//! A limit of any ancestor holds, so the way goes up to the root and the smallest counts. Version 2 has it in `cpu.max`,
//! version 1 in two files of the controller `cpu`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use procfs::ProcessCGroup;

/// Cores that a cgroup's directory allows.
type Read = fn(&Path) -> Option<f64>;

const MOUNTED: &str = "/sys/fs/cgroup";

/// The cgroup with the smallest quota above a process, and how many cores it allows; `None` without a quota.
pub(super) fn of(groups: &[ProcessCGroup]) -> Option<(PathBuf, f64)> {
    below(Path::new(MOUNTED), groups)
}

fn below(mounted: &Path, groups: &[ProcessCGroup]) -> Option<(PathBuf, f64)> {
    let mut found = Vec::new();
    for group in groups {
        let (roots, read): (_, Read) = if group.controllers.is_empty() {
            ([mounted.to_owned(), mounted.join("unified")], version_2)
        } else if group.controllers.iter().any(|name| name == "cpu") {
            ([mounted.join(group.controllers.join(",")), mounted.join("cpu")], version_1)
        } else {
            continue;
        };
        for root in roots {
            // A process outside of this cgroup namespace has a path that leads up.
            if group.pathname.split('/').any(|component| component == "..") {
                continue;
            }
            let own = root.join(group.pathname.trim_start_matches('/'));
            let up = own.ancestors().take_while(|directory| directory.starts_with(&root));
            found.extend(up.filter_map(|directory| Some((directory.to_owned(), read(directory)?))));
        }
    }
    found.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))
}

/// `MAX PERIOD` in microseconds; MAX may be the word "max".
fn version_2(directory: &Path) -> Option<f64> {
    let text = fs::read_to_string(directory.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

/// -1 is no quota.
fn version_1(directory: &Path) -> Option<f64> {
    let quota = fs::read_to_string(directory.join("cpu.cfs_quota_us")).ok()?;
    let period = fs::read_to_string(directory.join("cpu.cfs_period_us")).ok()?;
    ratio(quota.trim(), period.trim())
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// Cores of a service: its processes may be in several cgroups with a quota each, which add up; one process without any
/// may use the whole host.
pub(super) fn together(quotas: impl Iterator<Item = Option<(PathBuf, f64)>>, host: f64) -> f64 {
    let mut limited = BTreeMap::new();
    for quota in quotas {
        let Some((group, cores)) = quota else { return host };
        limited.insert(group, cores);
    }
    if limited.is_empty() { host } else { limited.values().sum::<f64>().min(host) }
}

#[cfg(test)]
mod tests {
    use procfs::{FromBufRead, ProcessCGroups};
    use tempfile::TempDir;

    use super::*;

    fn groups(text: &str) -> Vec<ProcessCGroup> {
        ProcessCGroups::from_buf_read(text.as_bytes()).unwrap().0
    }

    fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_counts() {
        let root = tree(&[
            ("system.slice/cpu.max", "150000 100000\n"),
            ("system.slice/web.service/cpu.max", "200000 100000\n"),
            ("system.slice/web.service/worker/cpu.max", "max 100000\n"),
        ]);
        let of = |text: &str| below(root.path(), &groups(text)).map(|(_, cores)| cores);
        assert_eq!(of("0::/system.slice/web.service/worker\n"), Some(1.5));
        assert_eq!(of("0::/user.slice\n"), None);
        assert_eq!(of("0::/\n"), None);
        assert_eq!(of("0::/../elsewhere\n"), None);
        fs::write(root.path().join("system.slice/web.service/cpu.max"), "50000 100000\n").unwrap();
        assert_eq!(of("0::/system.slice/web.service\n"), Some(0.5));
    }

    #[test]
    fn version_1_has_it_in_two_files_and_hybrid_hosts_have_both() {
        let root = tree(&[
            ("cpu,cpuacct/web/cpu.cfs_quota_us", "250000\n"),
            ("cpu,cpuacct/web/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("unified/web/cpu.max", "max 100000\n"),
        ]);
        let text = "4:cpu,cpuacct:/web\n3:memory:/web\n0::/web\n";
        assert_eq!(below(root.path(), &groups(text)).map(|(_, cores)| cores), Some(2.5));
        assert_eq!(below(root.path(), &groups("3:memory:/web\n")), None);
    }

    #[test]
    fn quotas_of_several_cgroups_add_up_to_the_host() {
        let quota = |name: &str, cores| Some((PathBuf::from(name), cores));
        let of = |quotas: &[Option<(PathBuf, f64)>]| together(quotas.iter().cloned(), 4.0);
        for (quotas, cores) in [
            (vec![], 4.0),
            (vec![quota("a", 1.5), quota("a", 1.5)], 1.5),
            (vec![quota("a", 1.5), quota("b", 1.0)], 2.5),
            (vec![quota("a", 3.0), quota("b", 3.0)], 4.0),
            (vec![quota("a", 1.5), None], 4.0),
        ] {
            assert!((of(&quotas) - cores).abs() < 1e-12, "{quotas:?}");
        }
    }
}

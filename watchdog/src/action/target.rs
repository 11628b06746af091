//! The user that the hook runs as.

use std::ffi::CString;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};

/// A user, looked up before the fork: the name service must not be asked in a forked child.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) home: PathBuf,
    /// `None`: the agent's own user.
    pub(super) switch: Option<Switch>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Ids", into = "Ids")]
pub(super) struct Switch {
    uid: Uid,
    gid: Gid,
    /// As `initgroups` would set them.
    groups: Vec<Gid>,
}

/// A [`Switch`] as the process that starts the hook is told it.
#[derive(Serialize, Deserialize)]
struct Ids {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl From<Switch> for Ids {
    fn from(switch: Switch) -> Self {
        let groups = switch.groups.into_iter().map(Gid::as_raw).collect();
        Self { uid: switch.uid.as_raw(), gid: switch.gid.as_raw(), groups }
    }
}

impl From<Ids> for Switch {
    fn from(ids: Ids) -> Self {
        let groups = ids.groups.into_iter().map(Gid::from_raw).collect();
        Self { uid: Uid::from_raw(ids.uid), gid: Gid::from_raw(ids.gid), groups }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum TargetError {
    #[error("user {0:?} does not exist; create it or correct `user` in [service.rollback]")]
    Unknown(String),
    #[error("{name:?} cannot be looked up: {errno}")]
    Lookup { name: String, errno: Errno },
    #[error("group {0:?} does not exist; create it or correct `groups` in [service.rollback]")]
    UnknownGroup(String),
}

impl Target {
    /// Of the configured user; `None` is the agent's own. May ask the network (LDAP), so not for an async task.
    pub(super) fn look_up(user: Option<&str>) -> Result<Self, TargetError> {
        let own = geteuid();
        let Some(name) = user else {
            let entry = User::from_uid(own).ok().flatten();
            let (name, home) =
                entry.map_or_else(|| (own.to_string(), "/".into()), |entry| (entry.name, entry.dir));
            return Ok(Self { name, home, switch: None });
        };
        let failed = |errno| TargetError::Lookup { name: name.to_owned(), errno };
        let entry =
            User::from_name(name).map_err(failed)?.ok_or_else(|| TargetError::Unknown(name.to_owned()))?;
        // An agent without privileges may name its own user.
        let needs_switch = own.is_root() || entry.uid != own;
        let switch = if needs_switch {
            let c_name = CString::new(name).map_err(|_| TargetError::Unknown(name.to_owned()))?;
            let groups = getgrouplist(&c_name, entry.gid).map_err(failed)?;
            Some(Switch { uid: entry.uid, gid: entry.gid, groups })
        } else {
            None
        };
        Ok(Self { name: entry.name, home: entry.dir, switch })
    }

    /// With these supplementary groups instead of all of the user's. Without privileges there is nothing to switch.
    pub(super) fn with_groups(mut self, names: Option<&[String]>) -> Result<Self, TargetError> {
        if let (Some(switch), Some(names)) = (&mut self.switch, names) {
            let look_up = |name: &String| {
                let failed = |errno| TargetError::Lookup { name: name.clone(), errno };
                let group = Group::from_name(name).map_err(failed)?;
                group.map(|group| group.gid).ok_or_else(|| TargetError::UnknownGroup(name.clone()))
            };
            switch.groups = names.iter().map(look_up).collect::<Result<_, _>>()?;
        }
        Ok(self)
    }

    /// Who the hook becomes; `None`: nobody else.
    pub(super) fn uid(&self) -> Option<Uid> {
        self.switch.as_ref().map(|switch| switch.uid)
    }
}

impl Switch {
    /// Becomes the user for good: real, effective and saved ids. Three system calls, safe between fork and exec.
    pub(super) fn enter(&self) -> nix::Result<()> {
        setgroups(&self.groups)?;
        setgid(self.gid)?;
        setuid(self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_named_with_the_key_to_correct() {
        let error = Target::look_up(Some("no-such-user-here")).unwrap_err().to_string();
        assert!(error.contains("no-such-user-here") && error.contains("[service.rollback]"), "{error}");
    }

    #[test]
    fn the_own_user_needs_no_name() {
        let target = Target::look_up(None).unwrap();
        assert!(target.switch.is_none());
        assert!(!target.name.is_empty());
    }
}

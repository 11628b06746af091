//! Who may do what over the control socket, by the kernel's word on who is at its other end.
//!
//! Reading (`status`, `builds`, `incidents`, `audit`, `gate`) is for members of `control_group`, which the socket's mode
//! already sees to. Changing is for root, the agent's own user, and `control_operators`: what a service costs is no secret
//! among those who look after the host, but who starts a rollback, or keeps one from happening, is a decision of its own.

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::config::ControlOperator;
use crate::decision::Who;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    Nothing,
    Read,
    Change,
}

/// What the configuration allows.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The socket's group.
    pub group: Option<Gid>,
    pub operators: Vec<ControlOperator>,
}

/// A user as the user database has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Account {
    name: Option<String>,
    groups: Vec<Gid>,
}

impl Access {
    /// Root and the agent's own user: they could do all of it without the agent.
    pub fn is_privileged(uid: u32) -> bool {
        uid == 0 || uid == Uid::effective().as_raw()
    }

    /// What a peer may do, and its name. Blocks: the user database may be on another host.
    pub fn look_up(&self, uid: u32, gid: u32) -> (Right, Who) {
        let account = Account::of(uid, gid);
        let name = account.name.clone().unwrap_or_else(|| format!("uid {uid}"));
        (self.right(uid, &account), Who { uid: Some(uid), name })
    }

    fn right(&self, uid: u32, account: &Account) -> Right {
        if Self::is_privileged(uid) || self.operators.iter().any(|operator| account.is(operator)) {
            Right::Change
        } else if self.group.is_some_and(|group| account.groups.contains(&group)) {
            Right::Read
        } else {
            Right::Nothing
        }
    }

    fn can_open(&self, user: &User) -> bool {
        Self::is_privileged(user.uid.as_raw())
            || self.group.is_some_and(|group| Account::of_user(user).groups.contains(&group))
    }

    /// What of the operators cannot work, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let problem = |operator: &ControlOperator| match operator {
            ControlOperator::User(name) => match User::from_name(name) {
                Ok(Some(user)) if self.can_open(&user) => None,
                Ok(Some(_)) => Some(format!(
                    "user \"{name}\" of control_operators is not in control_group and cannot open the socket; add it \
                     with `usermod -aG`"
                )),
                Ok(None) => Some(format!("user \"{name}\" of control_operators does not exist")),
                Err(error) => Some(format!("user \"{name}\" of control_operators: {error}")),
            },
            ControlOperator::Group(name) => match Group::from_name(name) {
                Ok(Some(_)) => None,
                Ok(None) => Some(format!("group \"{name}\" of control_operators does not exist")),
                Err(error) => Some(format!("group \"{name}\" of control_operators: {error}")),
            },
        };
        self.operators.iter().filter_map(problem).collect()
    }
}

impl Account {
    fn is(&self, operator: &ControlOperator) -> bool {
        match operator {
            ControlOperator::User(name) => self.name.as_deref() == Some(name),
            ControlOperator::Group(name) => Group::from_name(name)
                .is_ok_and(|group| group.is_some_and(|group| self.groups.contains(&group.gid))),
        }
    }

    /// With the groups of the database, not those of the session: who was taken out of a group has lost it at once.
    fn of(uid: u32, gid: u32) -> Self {
        match User::from_uid(Uid::from_raw(uid)) {
            Ok(Some(user)) => {
                let mut account = Self::of_user(&user);
                account.groups.push(Gid::from_raw(gid));
                account
            }
            _ => Self { name: None, groups: vec![Gid::from_raw(gid)] },
        }
    }

    fn of_user(user: &User) -> Self {
        let groups = std::ffi::CString::new(user.name.clone())
            .ok()
            .and_then(|name| getgrouplist(&name, user.gid).ok())
            .unwrap_or_else(|| vec![user.gid]);
        Self { name: Some(user.name.clone()), groups }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, groups: &[u32]) -> Account {
        Account {
            name: Some(name.to_owned()),
            groups: groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
        }
    }

    #[test]
    fn members_of_the_group_read_and_operators_change() {
        let access =
            Access { group: Some(Gid::from_raw(54_321)), operators: vec!["ann".into(), "%root".into()] };
        let right = |uid, account: &Account| access.right(uid, account);
        assert_eq!(right(0, &account("root", &[0])), Right::Change);
        assert_eq!(right(65_000, &account("ann", &[54_321])), Right::Change);
        assert_eq!(right(65_000, &account("bob", &[54_321])), Right::Read);
        assert_eq!(right(65_000, &account("bob", &[65_000])), Right::Nothing);
        assert_eq!(right(65_000, &account("bob", &[65_000, 0])), Right::Change, "by a group");
        assert_eq!(right(65_000, &account("%root", &[65_000])), Right::Nothing);
        assert_eq!(right(65_000, &Account::default()), Right::Nothing);
        assert_eq!(Access::default().right(65_000, &account("bob", &[54_321])), Right::Nothing);
    }

    #[test]
    fn a_group_that_does_not_exist_lets_nobody_in() {
        let access = Access { group: None, operators: vec!["%no-such-group-here".into()] };
        assert_eq!(access.right(65_000, &account("bob", &[65_000])), Right::Nothing);
        let problems = access.problems();
        assert!(problems.len() == 1 && problems[0].contains("no-such-group-here"), "{problems:?}");
    }

    #[test]
    fn an_operator_who_cannot_open_the_socket_is_told() {
        let access = Access { group: Some(Gid::from_raw(54_321)), operators: vec!["nobody".into()] };
        let problems = access.problems();
        assert!(problems.len() == 1 && problems[0].contains("cannot open the socket"), "{problems:?}");
    }
}

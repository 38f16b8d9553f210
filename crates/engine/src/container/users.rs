//! Who a container's process is: `--user`, `USER`, `--group-add` against the container's own `/etc/passwd` and
//! `/etc/group`. Owns the parsing; the two files come as text, bounded by whoever read them. Pure.

use brig_oci::runtime::User;

use crate::error::{Error, Result};

/// The texts of the container's `/etc/passwd` and `/etc/group`; empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// A process's identity, and the home directory that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Ids for the runtime.
    pub user: User,
    /// Home directory; `/` if the user has none.
    pub home: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl Accounts {
    fn users(&self) -> impl Iterator<Item = PasswdEntry<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let home = fields.nth(1).unwrap_or_default();
            Some(PasswdEntry { name, uid: number(uid)?, gid: number(gid)?, home })
        })
    }

    fn groups(&self) -> impl Iterator<Item = GroupEntry<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
            Some(GroupEntry { name, gid: number(gid)?, members: fields.next().unwrap_or_default() })
        })
    }

    /// Resolves `user[:group]` (empty means root) and additional groups by name or number.
    pub fn resolve(&self, spec: &str, additional: &[String]) -> Result<Identity> {
        let (user_part, group_part) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (spec, None),
        };
        let user_part = if user_part.is_empty() { "0" } else { user_part };
        // A number is a number, whatever the image calls its users: a root named "1000" is not who was asked for
        // (CVE-2026-46680). Docker lets the name win.
        let asked = number(user_part);
        let entry = self.users().find(|entry| asked.map_or(entry.name == user_part, |uid| entry.uid == uid));
        let uid = match (&entry, asked) {
            (Some(entry), _) => entry.uid,
            (None, Some(uid)) => uid,
            (None, None) => {
                return Err(Error::invalid(format!(
                    "unable to find user {user_part}: no matching entries in passwd file"
                )));
            }
        };
        let gid = match group_part {
            Some(group) => self.group_id(group)?,
            None => entry.as_ref().map_or(0, |entry| entry.gid),
        };
        let mut additional_gids = Vec::new();
        if let (Some(entry), None) = (&entry, group_part) {
            let member = |group: &GroupEntry<'_>| group.members.split(',').any(|name| name == entry.name);
            additional_gids.extend(self.groups().filter(member).map(|group| group.gid));
        }
        for group in additional {
            additional_gids.push(self.group_id(group)?);
        }
        if !additional_gids.contains(&gid) {
            additional_gids.insert(0, gid);
        }
        let mut seen = std::collections::BTreeSet::new();
        additional_gids.retain(|gid| seen.insert(*gid));
        let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty());
        let home = home.unwrap_or(if uid == 0 { "/root" } else { "/" }).to_owned();
        Ok(Identity { user: User { uid, gid, additional_gids, ..User::default() }, home })
    }

    fn group_id(&self, group: &str) -> Result<u32> {
        number(group)
            .or_else(|| self.groups().find(|entry| entry.name == group).map(|entry| entry.gid))
            .ok_or_else(|| Error::invalid(format!("unable to find group {group}: no matching entries in group file")))
    }
}

/// A whole id: digits only, and neither of the two values that mean "no id" to the kernel.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 10 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse::<u32>().ok()).flatten().filter(|id| i32::try_from(*id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\nbroken\n".into(),
            group: "root:x:0:\nwww:x:33:\nlogs:x:4:web,other\n".into(),
        }
    }

    fn ids(spec: &str) -> (u32, u32, Vec<u32>) {
        let user = accounts().resolve(spec, &[]).unwrap().user;
        (user.uid, user.gid, user.additional_gids)
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(ids(""), (0, 0, vec![0]));
        assert_eq!(ids("web"), (33, 33, vec![33, 4]));
        assert_eq!(ids("33"), (33, 33, vec![33, 4]));
        assert_eq!(ids("web:root"), (33, 0, vec![0]));
        assert_eq!(ids("1"), (1, 0, vec![0]));
        assert_eq!(ids("1:"), (1, 0, vec![0]));
        assert_eq!(ids(":4"), (0, 4, vec![4]));
        assert_eq!(ids("01"), (1, 0, vec![0]));
        assert_eq!(accounts().resolve("web", &["7".into(), "logs".into()]).unwrap().user.additional_gids, [33, 4, 7]);
        assert_eq!(accounts().resolve("web", &[]).unwrap().home, "/var/www");
        assert_eq!(accounts().resolve("5", &[]).unwrap().home, "/");
    }

    #[test]
    fn a_number_is_never_another_users_name() {
        let passwd = "1000:x:0:0::/root:/bin/sh\nplain:x:1000:1000::/home:/bin/sh\n".into();
        let accounts = Accounts { passwd, group: "7:x:0:\n".into() };
        let identity = accounts.resolve("1000:7", &["7".into()]).unwrap();
        assert_eq!((identity.user.uid, identity.user.gid, identity.home.as_str()), (1000, 7, "/home"));
        assert_eq!(identity.user.additional_gids, [7]);
    }

    #[test]
    fn what_is_no_id_is_never_root() {
        for bad in ["+1", "0x1", " 1", "1 ", "4294967295", "4294967296", "-1", "nosuch", "١", "1:4294967296", "root:no"]
        {
            assert!(accounts().resolve(bad, &[]).is_err(), "{bad}");
        }
    }
}

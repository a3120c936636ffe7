//! Names of users and groups, from `/etc/passwd` and `/etc/group` alone. NSS is not asked: it would load foreign code and
//! talk to the network inside the privileged process. An account of a directory service therefore has no name here:
//! its name is unavailable (not absent), and rules about it use ids.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which state of a file was read.
type Stamp = (u64, u64, i64, i64);

/// The two files, read again when they change.
#[derive(Debug)]
pub struct Accounts {
    users: Names,
    groups: Names,
}

#[derive(Debug)]
struct Names {
    file: PathBuf,
    read: Option<Stamp>,
    by_id: HashMap<u32, Arc<str>>,
}

impl Accounts {
    /// Reads from this directory (`/etc`).
    pub fn new(etc: &Path) -> Self {
        Self {
            users: Names::new(etc.join("passwd")),
            groups: Names::new(etc.join("group")),
        }
    }

    /// Name of a user; the error says why there is none.
    ///
    /// # Errors
    /// Where the file can't be read or has no such id.
    pub fn user(&mut self, uid: u32) -> Result<Arc<str>, String> {
        self.users.name(uid)
    }

    /// Name of a group.
    ///
    /// # Errors
    /// Where the file can't be read or has no such id.
    pub fn group(&mut self, gid: u32) -> Result<Arc<str>, String> {
        self.groups.name(gid)
    }
}

impl Names {
    fn new(file: PathBuf) -> Self {
        Self {
            file,
            read: None,
            by_id: HashMap::new(),
        }
    }

    fn name(&mut self, id: u32) -> Result<Arc<str>, String> {
        self.refresh()
            .map_err(|e| format!("{}: {e}", self.file.display()))?;
        self.by_id.get(&id).cloned().ok_or_else(|| {
            format!(
                "no name for id {id} in {} (directory services are not asked: use the id)",
                self.file.display()
            )
        })
    }

    fn refresh(&mut self) -> std::io::Result<()> {
        let meta = std::fs::metadata(&self.file)?;
        let stamp = (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec());
        if self.read != Some(stamp) {
            self.by_id = parse(&String::from_utf8_lossy(&std::fs::read(&self.file)?));
            self.read = Some(stamp);
        }
        Ok(())
    }
}

/// `name:x:id:…` per line; of several names with one id the first counts, as getpwuid(3) does.
fn parse(text: &str) -> HashMap<u32, Arc<str>> {
    let mut by_id = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        if let (false, Ok(id)) = (name.is_empty(), id.parse()) {
            by_id.entry(id).or_insert_with(|| name.into());
        }
    }
    by_id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_counts_and_bad_lines_do_not() {
        let names =
            parse("root:x:0:0::/:/bin/sh\ntoor:x:0:0\n\n+::\nbad:x:y\nbilling:x:1001:1001\n");
        assert_eq!(names[&0].as_ref(), "root");
        assert_eq!(names[&1001].as_ref(), "billing");
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn an_unknown_id_says_so_and_a_changed_file_is_read_again() {
        let etc = tempfile::tempdir().unwrap();
        let passwd = etc.path().join("passwd");
        std::fs::write(&passwd, "a:x:1:1\n").unwrap();
        let mut accounts = Accounts::new(etc.path());
        assert_eq!(accounts.user(1).unwrap().as_ref(), "a");
        assert!(accounts.user(2).unwrap_err().contains("use the id"));
        let next = etc.path().join("next");
        std::fs::write(&next, "a:x:1:1\nb:x:2:2\n").unwrap();
        std::fs::rename(&next, &passwd).unwrap();
        assert_eq!(accounts.user(2).unwrap().as_ref(), "b");
    }
}

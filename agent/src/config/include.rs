//! Which files an `include` entry means. Globs match within the last segment only, so that reading the main file tells
//! which directories count.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::custody::{self, CustodyError};

/// The files of one entry, sorted by name. A drop-in folder that isn't there or is empty has none; a file that is named
/// in full is returned whether it is there or not, so that its absence is told when it is read.
///
/// # Errors
/// A drop-in folder in somebody else's hands.
pub fn expand(folder: &Path, entry: &str) -> Result<Vec<PathBuf>, CustodyError> {
    let path = folder.join(entry);
    let pattern = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("");
    if !pattern.contains(['*', '?']) {
        return Ok(vec![path]);
    }
    let within = path.parent().unwrap_or(folder);
    match custody::directory(&std::path::absolute(within).unwrap_or_else(|_| within.into())) {
        Ok(_) => {}
        Err(CustodyError::Open(_, Errno::ENOENT)) => return Ok(vec![]),
        Err(error) => return Err(error),
    }
    let entries = std::fs::read_dir(within).map_err(|e| CustodyError::Read(within.into(), e))?;
    let mut files = vec![];
    for entry in entries {
        let entry = entry.map_err(|e| CustodyError::Read(within.into(), e))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| matches(pattern, name)) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Shell rules: `*` any number of characters, `?` one, neither matches a leading dot.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much of the name it has eaten so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some('?') => (p, n) = (p + 1, n + 1),
            Some(c) if *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, eaten)) => {
                    star = Some((at, eaten + 1));
                    (p, n) = (at + 1, eaten + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_the_shells() {
        for (pattern, name, is) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".a.toml", false),
            ("*.toml", "a.toml~", false),
            ("*.toml", "a.toml.toml", true),
            ("a?c*", "abcd", true),
            ("a?c*", "ac", false),
            ("*", "", true),
            ("**b*", "aab", true),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn drop_ins_come_in_order_and_may_be_none() {
        let folder = tempfile::tempdir_in("/root").unwrap();
        assert!(expand(folder.path(), "policy.d/*.toml").unwrap().is_empty());
        let drop_ins = folder.path().join("policy.d");
        std::fs::create_dir(&drop_ins).unwrap();
        for name in ["b.toml", "a.toml", "c.bak"] {
            std::fs::write(drop_ins.join(name), "").unwrap();
        }
        let found = expand(folder.path(), "policy.d/*.toml").unwrap();
        assert_eq!(found, [drop_ins.join("a.toml"), drop_ins.join("b.toml")]);
        let named = expand(folder.path(), "gone.toml").unwrap();
        assert_eq!(named, [folder.path().join("gone.toml")]);
    }
}

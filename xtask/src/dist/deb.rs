//! The Debian package, with dpkg-deb: control data and maintainer scripts are files in systemd/deb, as dpkg reads them. No tool
//! writes scripts for us: what an upgrade does to a machine's guard is to be read in one place.

use super::Release;
use crate::{process, workspace};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Written into the package; who distributes it names himself, as Debian's own tools want it.
const NOBODY: &str = "imds-guard <imds-guard@localhost>";

/// Pack it.
pub(super) fn make(release: &Release, tree: &Path) -> Result<()> {
    let version = release.debian_version();
    let doc = tree.join("usr/share/doc/imds-guard");
    fs::write(doc.join("changelog.Debian"), changelog(release, &version)?)?;
    compress(tree)?;
    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control)?;
    fs::write(control.join("control"), fields(release, &version, tree)?)?;
    fs::write(control.join("conffiles"), conffiles(tree)?)?;
    fs::write(control.join("md5sums"), sums(tree)?)?;
    let scripts = workspace::root().join("systemd/deb");
    for script in SCRIPTS {
        let to = control.join(script);
        fs::copy(scripts.join(script), &to).with_context(|| script.to_owned())?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    }
    // One thread: how many there are shows in what xz writes.
    let options = ["--root-owner-group", "-Zxz", "--threads-max=1", "--build"];
    let mut build = process::command("dpkg-deb", &options)?;
    process::run(
        build
            .env("SOURCE_DATE_EPOCH", &release.epoch)
            .arg(tree)
            .arg(release.deb()),
    )
}

fn fields(release: &Release, version: &str, tree: &Path) -> Result<String> {
    let template = fs::read_to_string(workspace::root().join("systemd/deb/control"))?;
    let size: u64 = files(tree)?
        .iter()
        .flat_map(|file| file.metadata())
        .map(|m| m.len().div_ceil(1024))
        .sum();
    Ok(template
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", release.architecture.debian())
        .replace("@MAINTAINER@", &maintainer())
        .replace("@SIZE@", &size.to_string()))
}

fn maintainer() -> String {
    match (std::env::var("DEBFULLNAME"), std::env::var("DEBEMAIL")) {
        (Ok(name), Ok(mail)) => format!("{name} <{mail}>"),
        _ => NOBODY.to_owned(),
    }
}

fn changelog(release: &Release, version: &str) -> Result<String> {
    let at = format!("@{}", release.epoch);
    let date = process::output("date", &["--utc", "--rfc-email", "--date", &at]);
    let date = date.context("date(1)")?;
    let maintainer = maintainer();
    Ok(format!(
        "imds-guard ({version}) unstable; urgency=medium\n\n  * Version {}. What has changed is told by the project's history.\n\n -- {maintainer}  {date}\n",
        release.version
    ))
}

/// As Debian wants manuals and the changelog.
fn compress(tree: &Path) -> Result<()> {
    let packed = files(tree)?.into_iter().filter(|file| {
        file.starts_with(tree.join("usr/share/man")) || file.ends_with("changelog.Debian")
    });
    let mut gzip = process::command("gzip", &["-9n"])?;
    process::run(gzip.args(packed))
}

/// What an administrator may have changed: dpkg asks before it replaces these.
fn conffiles(tree: &Path) -> Result<String> {
    let all = files(&tree.join("etc"))?;
    Ok(all
        .iter()
        .map(|file| format!("/{}\n", below(tree, file)))
        .collect())
}

fn sums(tree: &Path) -> Result<String> {
    let all = files(tree)?;
    let all = all.iter().map(|file| below(tree, file));
    let names: Vec<String> = all
        .filter(|name| !name.starts_with("DEBIAN/") && !name.starts_with("etc/"))
        .collect();
    let mut md5sum = process::command("md5sum", &[])?;
    let output = md5sum
        .args(names)
        .current_dir(tree)
        .output()
        .context("md5sum")?;
    Ok(String::from_utf8(output.stdout)?)
}

fn below(tree: &Path, file: &Path) -> String {
    file.strip_prefix(tree)
        .unwrap_or(file)
        .display()
        .to_string()
}

/// All files, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A unit that comes to systemd/ and isn't known to the scripts would be installed, and neither enabled nor removed.
    #[test]
    fn the_scripts_know_every_unit_that_can_be_enabled() {
        let root = workspace::root();
        let units = fs::read_dir(root.join("systemd"))
            .unwrap()
            .flatten()
            .map(|e| e.path());
        let units: Vec<_> = units
            .filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("\n[Install]")))
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert!(units.len() >= 2, "{units:?}");
        for script in SCRIPTS {
            let text = fs::read_to_string(root.join("systemd/deb").join(script)).unwrap();
            let line = text
                .lines()
                .find(|line| line.starts_with("UNITS="))
                .unwrap();
            for unit in &units {
                assert!(line.contains(&**unit), "{script}: {unit} isn't in {line}");
            }
        }
    }
}

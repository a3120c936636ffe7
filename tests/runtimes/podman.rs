//! Podman as Debian has it: one image, made here of a busybox and the tests' own probe, and containers that wait to be told to
//! ask. As root, and as an ordinary user with a manager of its own.

use crate::asker::Asker;
use crate::installed::run;
use anyhow::{Context, Result, ensure};
use imds_guard_tests::binary;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The user of rootless containers; it has subordinate ids from 100000 on.
pub(crate) const USER: &str = "alice";
pub(crate) const UID: u32 = 1000;
/// The first of its subordinate ids is its containers' uid 1.
pub(crate) const SUBORDINATE: u32 = 100_000;

const IMAGE: &str = "app";
const TAR: &str = "/run/app.tar";
const SETTINGS: &str = "[containers]\nlog_driver = \"none\"\n[engine]\nevents_logger = \"none\"\n";

/// Whose podman.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Root,
    Rootless,
}

/// A running container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) asker: Asker,
    /// Of its first process, in the machine.
    pub(crate) pid: u32,
}

impl Container {
    /// The cgroup of its first process.
    pub(crate) fn cgroup(&self) -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid))?;
        let line = text.lines().find_map(|line| line.strip_prefix("0::"));
        Ok(line.context("no cgroup v2")?.to_owned())
    }

    /// Its scope, as a selector that is its own alone: podman names it after the container's id.
    pub(crate) fn selector(&self) -> Result<String> {
        let cgroup = self.cgroup()?;
        let (scope, _) = cgroup
            .split_once(".scope")
            .with_context(|| format!("no scope in {cgroup}"))?;
        ensure!(scope.contains("/libpod-"), "{scope}");
        Ok(format!("cgroup:path:{scope}.scope/**"))
    }
}

impl Engine {
    /// Ready to run containers: the image is there.
    pub(crate) fn prepare(self) -> Result<Self> {
        if !Path::new(TAR).exists() {
            make_image()?;
        }
        if self == Self::Rootless {
            make_user()?;
        }
        // Asking podman whether it has an image takes as long as half an import.
        let imported = format!("{TAR}.{self:?}");
        if !Path::new(&imported).exists() {
            self.podman(&["import", TAR, IMAGE])?;
            fs::write(imported, "")?;
        }
        Ok(self)
    }

    /// `podman`, to its end.
    pub(crate) fn podman(self, arguments: &[&str]) -> Result<String> {
        match self {
            Self::Root => run("podman", arguments),
            Self::Rootless => {
                let runtime = format!("XDG_RUNTIME_DIR=/run/user/{UID}");
                // Inside the user's own manager, as in a session; the network's process may stay when podman has ended.
                let mut all = vec!["-u", USER, "--", "env", "-C", "/", &runtime];
                all.extend([
                    "systemd-run",
                    "--user",
                    "--quiet",
                    "--wait",
                    "--collect",
                    "--pipe",
                ]);
                all.extend(["-p", "KillMode=process", "--", "podman"]);
                all.extend(arguments);
                run("runuser", &all)
            }
        }
    }

    /// Start a container that waits to be told to ask.
    pub(crate) fn start(self, name: &str, options: &[&str]) -> Result<Container> {
        let asker = Asker::new(name)?;
        let mounted = format!("{}:/ask", asker.directory().display());
        let pid = asker.directory().join("pid");
        let pid_file = format!("--pidfile={}", pid.display());
        let script = Asker::script(Path::new("/ask"));
        let mut arguments = vec![
            "run",
            "-d",
            "--replace",
            "--name",
            name,
            "-v",
            &mounted,
            &pid_file,
        ];
        arguments.extend(options);
        arguments.extend([IMAGE, "/bin/sh", "-c", &script]);
        self.podman(&arguments)?;
        let pid = fs::read_to_string(pid)?;
        Ok(Container {
            asker,
            pid: pid
                .trim()
                .parse()
                .with_context(|| format!("no pid: {pid}"))?,
        })
    }
}

/// busybox, and the probe with the libraries that it needs.
fn make_image() -> Result<()> {
    let tree = PathBuf::from("/run/app");
    for below in ["bin", "etc", "ask", "tmp"] {
        fs::create_dir_all(tree.join(below))?;
    }
    let busybox = tree.join("bin/busybox");
    fs::copy("/run/payload/busybox", &busybox).context("busybox")?;
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh"))?;
    // What holds a pod's namespaces.
    let pause = tree.join("bin/pause");
    fs::write(&pause, "#!/bin/sh\nexec /bin/busybox sleep 100000\n")?;
    fs::set_permissions(&pause, fs::Permissions::from_mode(0o755))?;
    let probe = binary("probe")?;
    fs::copy(&probe, tree.join("bin/probe"))?;
    let needed = run("ldd", &[&probe.display().to_string()])?;
    for library in needed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let at = tree.join(library.trim_start_matches('/'));
        fs::create_dir_all(at.parent().context("a library at the root")?)?;
        fs::copy(library, at).with_context(|| library.to_owned())?;
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n",
    )?;
    fs::create_dir_all("/etc/containers")?;
    fs::write("/etc/containers/containers.conf", SETTINGS)?;
    run("tar", &["-C", "/run/app", "-cf", TAR, "."]).map(drop)
}

/// An ordinary user whose manager runs.
fn make_user() -> Result<()> {
    if run("id", &["-u", USER]).is_err() {
        run("useradd", &["-m", "-u", &UID.to_string(), USER])?;
    }
    // udev's part on a machine that has it.
    for module in ["tun", "fuse"] {
        run("modprobe", &[module])?;
    }
    run("chmod", &["666", "/dev/net/tun", "/dev/fuse"])?;
    run("loginctl", &["enable-linger", USER])?;
    run("systemctl", &["start", &format!("user@{UID}.service")])?;
    Ok(())
}

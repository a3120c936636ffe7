//! A Debian with a real systemd as process 1, in namespaces of a world: no virtual machine, the host's kernel.
//!
//! Owns the root file system (made once with mmdebstrap, kept under target/, used through an overlay) and the life of one such
//! machine. Never touches the host's systemd.

use anyhow::{Context, Result, bail, ensure};
use imds_guard_tests::{World, binary, patience};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What the root file system holds beside a minimal Debian.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,curl,nftables";

/// Another beside it: with what runs of its own accord on a cloud's machines, none of it enabled.
const CLOUDS: &str = "systemd,systemd-sysv,dbus,curl,nftables,iproute2,cloud-init,waagent,google-guest-agent,amazon-ec2-net-utils,amazon-ec2-utils";
const NOT_ENABLED: &str = r#"--customize-hook=cd "$1/etc/systemd/system" && rm -rf ./*.wants/cloud-* ./*.wants/walinuxagent* ./*.wants/google-* cloud-* walinuxagent* && touch "$1/etc/cloud/cloud-init.disabled""#;

/// Another: with those that write the packet filter's rules, too, none of them enabled.
const FIREWALLS: &str =
    "systemd,systemd-sysv,dbus,curl,nftables,iproute2,firewalld,docker.io,iptables,busybox-static";
const NONE_OF_THEM: &str = r#"--customize-hook=cd "$1/etc/systemd/system" && rm -f ./*.wants/docker.* ./*.wants/containerd.* ./*.wants/firewalld.* dbus-org.fedoraproject.FirewallD1.service"#;

/// It takes two seconds, and ten times that beside other builds.
const BOOT: Duration = Duration::from_secs(90);

/// A running machine; dropped, its process 1 is killed, and with it all others.
pub(crate) struct Machine {
    /// None for the machine that the test itself runs in, which lives on.
    pub(crate) unshare: Option<Child>,
    pub(crate) init: u32,
    pub(crate) console: PathBuf,
}

impl Machine {
    /// Boot one inside `world`, with imds-guard installed as `systemd/README.md` says, and `policy` as its configuration.
    pub(crate) fn boot(world: &World, policy: &str) -> Result<Self> {
        Self::boot_with(world, policy, &[])
    }

    /// The same on a Debian with the packages of the clouds' own agents.
    pub(crate) fn boot_in_the_clouds(
        world: &World,
        policy: &str,
        more: &[(&str, &str)],
    ) -> Result<Self> {
        let root = root_file_system("-clouds", CLOUDS, &[NOT_ENABLED])?;
        Self::on(world, &root, &configured(world, policy)?, more)
    }

    /// The same on a Debian with firewalld and Docker.
    pub(crate) fn boot_beside_others(
        world: &World,
        policy: &str,
        more: &[(&str, &str)],
    ) -> Result<Self> {
        let root = root_file_system("-firewalls", FIREWALLS, &[NONE_OF_THEM])?;
        Self::on(world, &root, &configured(world, policy)?, more)
    }

    /// The same with further files: paths, and what is in them. A path that ends in `.wants/…` is a link to the unit of that name.
    pub(crate) fn boot_with(world: &World, policy: &str, more: &[(&str, &str)]) -> Result<Self> {
        Self::with(world, &configured(world, policy)?, more)
    }

    /// Boot one inside `world`, with these files in it, each with its path there, and `more` as above.
    pub(crate) fn with(
        world: &World,
        files: &[(PathBuf, String)],
        more: &[(&str, &str)],
    ) -> Result<Self> {
        Self::on(world, &root_file_system("", PACKAGES, &[])?, files, more)
    }

    fn on(
        world: &World,
        lower: &Path,
        files: &[(PathBuf, String)],
        more: &[(&str, &str)],
    ) -> Result<Self> {
        let upper = world.directory().join("root-upper");
        lay(&upper, files)?;
        for (path, text) in more {
            let to = upper.join("top").join(path);
            let folder = to.parent().context("a file without a folder")?;
            fs::create_dir_all(folder)?;
            match folder.extension().is_some_and(|e| e == "wants") {
                true => std::os::unix::fs::symlink(text, &to)?,
                false => fs::write(&to, text)?,
            }
        }
        let console = world.directory().join("console.log");
        let log = fs::File::create(&console)?;
        let mut command = Command::new("sh");
        // unshare -C after the move: the cgroup2 mounted inside shows this cgroup as its root.
        command
            .args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
            .arg(world.cgroup_below("machine")?);
        command
            .args([
                "unshare",
                "-m",
                "-p",
                "-f",
                "-u",
                "-i",
                "-C",
                "--kill-child",
                "sh",
            ])
            .arg(manifest("systemd/boot.sh"));
        command
            .arg(lower)
            .arg(&upper)
            .arg(world.directory())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let unshare = world.enter(move || command.spawn().context("unshare"))?;
        let mut machine = Self {
            unshare: Some(unshare),
            init: 0,
            console,
        };
        machine.wait_booted()?;
        Ok(machine)
    }

    fn wait_booted(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        loop {
            let unshare = self.unshare.as_mut().context("not of our making")?;
            let children = format!("/proc/{0}/task/{0}/children", unshare.id());
            if let Some(status) = unshare.try_wait()? {
                bail!(
                    "the machine ended while booting ({status}):\n{}",
                    self.console()
                );
            }
            let child = fs::read_to_string(&children).unwrap_or_default();
            if let Ok(init) = child.trim().parse() {
                self.init = init;
                let state = self.run(&["systemctl", "is-system-running"])?;
                // "degraded": some unit of Debian's doesn't work without devices; ours are judged by the tests.
                if matches!(text(&state).as_str(), "running" | "degraded") {
                    return Ok(());
                }
            }
            ensure!(
                Instant::now() < deadline,
                "not booted after {} s:\n{}",
                BOOT.as_secs(),
                self.console()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What systemd said while booting.
    pub(crate) fn console(&self) -> String {
        fs::read_to_string(&self.console).unwrap_or_default()
    }

    /// Run a command inside, as root, to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().context("nsenter")
    }

    /// A command inside, as root.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let init = self.init.to_string();
        let enter = [
            "nsenter", "--all", "--root", "--wd", "--target", &init, "--",
        ];
        let enter = self.unshare.as_ref().map_or(&[][..], |_| &enter[..]);
        let mut words = enter.iter().chain(arguments);
        let mut command = Command::new(words.next().unwrap_or(&"false"));
        command.args(words);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    /// Put a program of this build where programs are.
    pub(crate) fn put(&self, program: &str) -> Result<()> {
        let to = self.root().join("usr/bin").join(program);
        fs::copy(binary(program)?, to).with_context(|| program.to_owned())?;
        Ok(())
    }

    /// Its root directory, seen from here.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init))
    }

    /// The same as [`Machine::run`], and its standard output; its failure is an error with all that it said.
    pub(crate) fn must(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        ensure!(
            output.status.success(),
            "{}: {}{}",
            arguments.join(" "),
            text(&output),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text(&output))
    }

    /// One property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> Result<String> {
        self.must(&["systemctl", "show", "--value", "-p", name, unit])
    }

    /// A unit's main process, as a pid inside.
    pub(crate) fn main_pid(&self, unit: &str) -> Result<String> {
        self.property(unit, "MainPID")
    }

    /// Wait until a unit is active with another main process than `before`.
    pub(crate) fn wait_active(&self, unit: &str, before: &str) -> Result<String> {
        self.wait_active_within(unit, before, Duration::from_secs(30))
    }

    /// The same for as long as that.
    pub(crate) fn wait_active_within(
        &self,
        unit: &str,
        before: &str,
        limit: Duration,
    ) -> Result<String> {
        let deadline = Instant::now() + patience(limit);
        loop {
            let pid = self.main_pid(unit)?;
            if pid != "0" && pid != before && self.property(unit, "ActiveState")? == "active" {
                return Ok(pid);
            }
            if Instant::now() > deadline {
                bail!("{unit} isn't active:\n{}", self.journal(unit));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Wait until a unit has written something that contains `said` to the journal.
    pub(crate) fn wait_journal(&self, unit: &str, said: &str) -> Result<()> {
        let deadline = Instant::now() + patience(Duration::from_secs(15));
        while !self.journal(unit).contains(said) {
            ensure!(
                Instant::now() < deadline,
                "{unit} didn't say {said:?}:\n{}",
                self.journal(unit)
            );
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    /// Have nft take so many seconds longer from now on.
    pub(crate) fn slow_nft(&self, seconds: u32) -> Result<()> {
        let script = r#"cd /usr/sbin && test -e nft.real || mv nft nft.real
            printf '#!/bin/sh\nsleep %s\nexec /usr/sbin/nft.real "$@"\n' "$0" >nft.new && chmod 755 nft.new && mv nft.new nft"#;
        self.must(&["sh", "-ec", script, &seconds.to_string()])
            .map(drop)
    }

    /// The pid, seen from here, of what is that pid inside.
    pub(crate) fn outer_pid(&self, inner: &str) -> Result<i32> {
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = space(&self.init.to_string());
        let names = fs::read_dir("/proc")?
            .flatten()
            .map(|entry| entry.file_name());
        for pid in names.filter_map(|name| name.into_string().ok()) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let is = line.is_some_and(|all| all.split_whitespace().last() == Some(inner));
            if is && space(&pid) == ours {
                return Ok(pid.parse()?);
            }
        }
        bail!("nobody is {inner} in there")
    }

    /// Replace the configuration.
    pub(crate) fn configure(&self, text: &str) -> Result<()> {
        fs::write(self.root().join("etc/imds-guard/imds-guard.toml"), text)
            .context("the configuration")
    }

    /// What a unit wrote to the journal, for messages.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "-n", "60", "--no-pager", "-u", unit])
            .map(|o| text(&o))
            .unwrap_or_default()
    }

    /// Ask Azure's metadata address for something, as a transient unit of that name: status code and body.
    pub(crate) fn ask(&self, unit: &str, target: &str) -> Result<(String, String)> {
        self.ask_from(unit, &[], target)
    }

    /// The same with further options of systemd-run.
    pub(crate) fn ask_from(
        &self,
        unit: &str,
        options: &[&str],
        target: &str,
    ) -> Result<(String, String)> {
        let name = format!("--unit={unit}");
        let url = format!("http://169.254.169.254{target}");
        let limit = patience(Duration::from_secs(8)).as_secs().to_string();
        let mut arguments = vec![
            "systemd-run",
            "--quiet",
            "--wait",
            "--collect",
            "--pipe",
            &name,
            "-p",
            "User=nobody",
        ];
        arguments.extend(options);
        arguments.extend([
            "curl",
            "-s",
            // A refused connection is dialled again, as SDKs do.
            "--retry",
            "5",
            "--retry-connrefused",
            "--retry-max-time",
            &limit,
            "-m",
            &limit,
            "-H",
            "Metadata: true",
            "-w",
            "\n%{http_code}",
            &url,
        ]);
        let output = self.run(&arguments)?;
        let (body, code) = text(&output)
            .rsplit_once('\n')
            .map_or((String::new(), text(&output)), |(b, c)| {
                (b.into(), c.into())
            });
        Ok((code, body))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.journal("imds-guard*");
            say(&format!(
                "== console\n{}\n== journal\n{journal}",
                self.console()
            ));
        }
        let Some(unshare) = &mut self.unshare else {
            return;
        };
        // Signals from outside reach a namespace's process 1 only when they can't be refused.
        if let Ok(init) = i32::try_from(self.init)
            && init > 1
        {
            let _gone_already = kill(Pid::from_raw(init), Signal::SIGKILL);
        }
        let _reaped = unshare.wait();
    }
}

fn say(text: &str) {
    let _nobody_listens = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}

/// Trimmed standard output.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A path below `tests/`.
fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What is installed, with this policy.
fn configured(world: &World, policy: &str) -> Result<Vec<(PathBuf, String)>> {
    let etc = world.directory().join("imds-guard.toml");
    fs::write(&etc, policy)?;
    let mut files = installed()?;
    files.push((etc, "etc/imds-guard/imds-guard.toml".into()));
    Ok(files)
}

/// The binary and the units, and where a package puts them.
fn installed() -> Result<Vec<(PathBuf, String)>> {
    let units = manifest("../systemd");
    let mut files = vec![(binary("imds-guard")?, "usr/bin/imds-guard".to_owned())];
    for unit in [
        "imds-guard.service",
        "imds-guard-proxy.service",
        "imds-guard-early.service",
    ] {
        files.push((units.join(unit), format!("etc/systemd/system/{unit}")));
    }
    for folder in ["sysusers.d", "tmpfiles.d"] {
        let file = units.join(folder).join("imds-guard.conf");
        files.push((file, format!("usr/lib/{folder}/imds-guard.conf")));
    }
    Ok(files)
}

/// Copy files into the layer above the root file system.
fn lay(upper: &Path, files: &[(PathBuf, String)]) -> Result<()> {
    fs::create_dir_all(upper.join("top"))?;
    for (from, to) in files {
        let to = upper.join("top").join(to);
        fs::create_dir_all(to.parent().context("a file without a folder")?)?;
        fs::copy(from, &to).with_context(|| from.display().to_string())?;
    }
    Ok(())
}

/// A Debian of the host's own release (whose C library the binary is linked against), made once. `kind` tells it from others.
fn root_file_system(kind: &str, packages: &str, more: &[&str]) -> Result<PathBuf> {
    let release = fs::read_to_string("/etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .context("not a Debian: no VERSION_CODENAME")?;
    let root = binary("imds-guard")?
        .ancestors()
        .nth(2)
        .context("no target directory")?
        .join(format!("systemd-root/{suite}{kind}"));
    // Written last, so an unfinished tree, or one of other packages, is made anew.
    if fs::read_to_string(root.join("made")).is_ok_and(|made| made == packages) {
        return Ok(root.join("tree"));
    }
    say("making a root file system for systemd (about 40 s, once)\n");
    let _an_unfinished_one = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    let mut command = Command::new("mmdebstrap");
    command.args([
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        &format!("--include={packages}"),
    ]);
    command.args(more);
    command.args([
        "--aptopt=APT::Install-Recommends \"false\"",
        "--aptopt=Acquire::Languages \"none\"",
    ]);
    command.args(
        ["man", "doc", "locale"].map(|part| format!("--dpkgopt=path-exclude=/usr/share/{part}/*")),
    );
    // The host's own sources: whoever has a mirror nearby has it there.
    command
        .arg(suite)
        .arg(root.join("tree"))
        .args(sources())
        .stdin(Stdio::null());
    let output = command.output().context("mmdebstrap: cargo xtask setup")?;
    ensure!(
        output.status.success(),
        "mmdebstrap: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::write(root.join("made"), packages)?;
    Ok(root.join("tree"))
}

fn sources() -> Vec<PathBuf> {
    let folder = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let files = folder.chain([PathBuf::from("/etc/apt/sources.list")]);
    files
        .filter(|file| {
            file.extension()
                .is_some_and(|e| e == "sources" || e == "list")
                && file.metadata().is_ok_and(|m| m.len() > 0)
        })
        .collect()
}

//! One machine: an interface of the world, or QEMU's own, and an archive with an init.

use imds_guard_tests::{Workload, World, guest_image};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a word may take. A machine is in user space after two seconds where nothing else runs, and after a minute where
/// all else does.
const PATIENCE: Duration = Duration::from_secs(240);

/// A tap of the world; gone when dropped.
pub(crate) struct Tap<'w> {
    world: &'w World,
    name: String,
}

/// A tap with an address of the host's, or without.
pub(crate) fn tap<'w>(world: &'w World, name: &str, address: Option<&str>) -> Tap<'w> {
    ip(world, &format!("tuntap add dev {name} mode tap"));
    if let Some(address) = address {
        ip(world, &format!("address add {address} dev {name}"));
    }
    ip(world, &format!("link set {name} up"));
    let name = name.to_owned();
    Tap { world, name }
}

/// A tap that is a port of the world's bridge.
pub(crate) fn port<'w>(world: &'w World, name: &str) -> Tap<'w> {
    let tap = tap(world, name, None);
    ip(world, &format!("link set {name} master tw-br"));
    tap
}

impl Drop for Tap<'_> {
    fn drop(&mut self) {
        ip(self.world, &format!("link del {}", self.name));
    }
}

fn ip(world: &World, arguments: &str) {
    let run = || {
        let output = Command::new("ip").args(arguments.split(' ')).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "ip {arguments}: {said}");
        Ok(())
    };
    world.enter(run).unwrap();
}

/// A running machine. Killed when dropped.
pub(crate) struct Machine {
    qemu: Child,
    report: PathBuf,
    console: PathBuf,
}

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
exec >/dev/ttyS1 2>&1
for module in $(cat /modules/order); do insmod "/modules/$module"; done
ip link set lo up
ip address add ADDRESS dev eth0
ip link set eth0 up
ip route add default via GATEWAY
while true; do
    # busybox 1.35's own -T crashes.
    timeout 3 wget -q -O - --header 'Metadata: true' 'http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net' || echo "no answer"
    echo
    sleep 1
done
"#;

impl Machine {
    /// Boots the `number`th machine of its world behind `tap`.
    pub(crate) fn boot(
        world: &World,
        tap: &Tap<'_>,
        number: u8,
        address: &str,
        gateway: &str,
    ) -> Self {
        let files = Files::make(world, &format!("vm{number}"), address, gateway);
        let netdev = format!("tap,id=net,ifname={},script=no,downscript=no", tap.name);
        let arguments = files.arguments(&netdev, number);
        let qemu = world.enter(|| {
            let mut qemu = Command::new("qemu-system-x86_64");
            qemu.args(&arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            Ok(qemu.spawn()?)
        });
        files.running(qemu.unwrap())
    }

    /// Boots a machine whose packets QEMU itself speaks for, run by a workload.
    pub(crate) fn of_user(world: &World, workload: &Workload<'_>) -> Self {
        let name = format!("user{}", workload.ids().0);
        let files = Files::make(world, &name, "10.0.2.15/24", "10.0.2.2");
        let arguments = files.arguments("user,id=net", 9);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let qemu = workload.spawn(Path::new("/usr/bin/qemu-system-x86_64"), &arguments);
        files.running(qemu.unwrap())
    }

    /// Waits until the machine has been told something with `word` in it: the last such line.
    #[track_caller]
    pub(crate) fn hears(&self, word: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read(&self.report).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            // The last line may be half written.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            if let Some(line) = whole.lines().rfind(|line| line.contains(word)) {
                return line.trim().to_owned();
            }
            let console = fs::read_to_string(&self.console).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "no {word:?} in\n{whole}\n{console}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it was told `word` so many times.
    #[track_caller]
    pub(crate) fn hears_more(&self, word: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.count(word) < times {
            assert!(Instant::now() < deadline, "{word:?} not {times} times");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many lines with `word` it was told so far.
    pub(crate) fn count(&self, word: &str) -> usize {
        let text = fs::read(&self.report).unwrap_or_default();
        String::from_utf8_lossy(&text).matches(word).count()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ended_already = self.qemu.kill();
        let _reaped = self.qemu.wait();
    }
}

/// What a machine boots from, and where it writes.
struct Files {
    directory: PathBuf,
}

impl Files {
    fn make(world: &World, name: &str, address: &str, gateway: &str) -> Self {
        let directory = world.directory().join(name);
        let tree = directory.join("tree");
        fs::create_dir_all(&tree).unwrap();
        let init = INIT.replace("ADDRESS", address).replace("GATEWAY", gateway);
        fs::write(tree.join("init"), init).unwrap();
        let image = guest_image().unwrap();
        fs::copy(image.join("vmlinuz"), directory.join("vmlinuz")).unwrap();
        let script = "cd \"$0\" && chmod 755 tree/init && (cat \"$1\"; cd tree && echo init | cpio --quiet -o -H newc) > initrd && touch report console && chmod 666 report console && chmod 755 . && chmod 644 vmlinuz initrd";
        let made = Command::new("sh")
            .args(["-c", script])
            .arg(&directory)
            .arg(image.join("base.cpio"))
            .status();
        assert!(made.unwrap().success());
        Self { directory }
    }

    fn arguments(&self, netdev: &str, number: u8) -> Vec<String> {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let mut all: Vec<String> = "-accel tcg -machine q35 -cpu max,la57=off -smp 1 -m 384M -nodefaults -no-user-config -nographic -no-reboot"
            .split(' ')
            .map(str::to_owned)
            .collect();
        let named = [
            ("-serial", format!("file:{}", at("console"))),
            ("-serial", format!("file:{}", at("report"))),
            ("-kernel", at("vmlinuz")),
            ("-initrd", at("initrd")),
            (
                "-append",
                "console=ttyS0 panic=-1 quiet no_timer_check".to_owned(),
            ),
            ("-netdev", netdev.to_owned()),
            (
                "-device",
                format!("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:02:{number:02x}"),
            ),
        ];
        all.extend(
            named
                .into_iter()
                .flat_map(|(name, value)| [name.to_owned(), value]),
        );
        all
    }

    fn running(self, qemu: Child) -> Machine {
        Machine {
            qemu,
            report: self.directory.join("report"),
            console: self.directory.join("console"),
        }
    }
}

/// The `sub` of the minted token in an answer.
pub(crate) fn subject(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap();
    let token = answer["access_token"].as_str().unwrap();
    imds_guard_tests::claims(token).unwrap()["sub"]
        .as_str()
        .unwrap()
        .to_owned()
}

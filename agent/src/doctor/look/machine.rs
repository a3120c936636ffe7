//! The guard's traces in the run directory, and the hardware's in `/sys`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::super::facts::{Devices, Seen};
use super::{because, read};
use crate::intercept::layer::Standing;

/// What the guard noted of its layers; nothing where it noted none, for that explains absence and proves nothing.
pub(super) fn noted(run_dir: &Path) -> Vec<Standing> {
    let text = fs::read(run_dir.join(Standing::FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The guard that holds the lock of the run directory. Read from `/proc/locks`: to try the lock would keep a guard that
/// starts in this moment from starting.
pub(crate) fn guard(run_dir: &Path) -> Seen<Option<u32>> {
    let lock = run_dir.join("lock");
    let file = match fs::metadata(&lock) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{}: {e}", lock.display())),
    };
    let locks = read("/proc/locks")?.ok_or("the kernel has no /proc/locks")?;
    let (device, inode) = (file.dev(), file.ino());
    Ok(holder(
        &locks,
        &format!("{:02x}:{:02x}:{inode}", major(device), minor(device)),
    ))
}

/// The pid in a line such as `1: FLOCK  ADVISORY  WRITE 4711 fe:01:123 0 EOF`.
fn holder(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [_, "FLOCK", _, "WRITE", pid, of, ..] if *of == file => pid.parse().ok(),
            _ => None,
        }
    })
}

/// Drivers by which a device leaves the kernel: to guests, and to programs (DPDK).
const PASSING: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// The class of network controllers on PCI.
const NETWORK_CLASS: &str = "0x02";

/// Physical network devices that this kernel has given away, or may.
pub(super) fn devices(sys: &Path) -> Seen<Devices> {
    let mut devices = Devices::default();
    for driver in PASSING {
        for device in listed(&sys.join("bus/pci/drivers").join(driver))? {
            let class = fs::read_to_string(device.join("class")).unwrap_or_default();
            if class.starts_with(NETWORK_CLASS) {
                devices
                    .passed_through
                    .push((name(&device), driver.to_owned()));
            }
        }
    }
    for interface in listed(&sys.join("class/net"))? {
        let count = fs::read_to_string(interface.join("device/sriov_numvfs"));
        let count = count.ok().and_then(|text| text.trim().parse().ok());
        if let Some(count) = count.filter(|count| *count > 0) {
            devices.virtual_functions.push((name(&interface), count));
        }
    }
    Ok(devices)
}

/// Transports of vsock with a device behind them, by their drivers; VMware's has a module alone.
pub(super) fn vsock(sys: &Path) -> Seen<Vec<String>> {
    let mut found = Vec::new();
    for (bus, driver) in [
        ("virtio", "vmw_vsock_virtio_transport"),
        ("vmbus", "hv_sock"),
    ] {
        let devices = listed(&sys.join("bus").join(bus).join("drivers").join(driver))?;
        let mut devices = devices.iter().map(|device| device.join("uevent"));
        if devices.any(|device| device.exists()) {
            found.push(driver.to_owned());
        }
    }
    if sys.join("module/vmw_vsock_vmci_transport").exists() {
        found.push("vmw_vsock_vmci_transport".into());
    }
    Ok(found)
}

/// What a directory has; nothing where there is none.
fn listed(directory: &Path) -> Seen<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.is_dir())
            .collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(because(directory.display())(e)),
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(sys: &Path, file: &str, text: &str) {
        let path = sys.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn network_devices_given_to_guests_are_found_and_others_are_not() {
        let sys = tempfile::tempdir().unwrap();
        let vfio = "bus/pci/drivers/vfio-pci";
        make(
            sys.path(),
            &format!("{vfio}/0000:00:05.0/class"),
            "0x020000\n",
        );
        make(
            sys.path(),
            &format!("{vfio}/0000:00:06.0/class"),
            "0x030000\n",
        );
        make(sys.path(), &format!("{vfio}/new_id"), "");
        make(sys.path(), "class/net/eth0/device/sriov_numvfs", "4\n");
        make(sys.path(), "class/net/eth1/device/sriov_numvfs", "0\n");
        let found = devices(sys.path()).unwrap();
        assert_eq!(
            found.passed_through,
            [("0000:00:05.0".into(), "vfio-pci".into())]
        );
        assert_eq!(found.virtual_functions, [("eth0".into(), 4)]);
        assert_eq!(
            devices(Path::new("/nonexistent")).unwrap(),
            Devices::default()
        );
    }

    #[test]
    fn a_vsock_driver_without_a_device_leads_nowhere() {
        let sys = tempfile::tempdir().unwrap();
        let driver = "bus/virtio/drivers/vmw_vsock_virtio_transport";
        make(sys.path(), &format!("{driver}/bind"), "");
        assert!(vsock(sys.path()).unwrap().is_empty());
        make(sys.path(), &format!("{driver}/virtio3/uevent"), "");
        assert_eq!(vsock(sys.path()).unwrap(), ["vmw_vsock_virtio_transport"]);
    }

    #[test]
    fn the_guard_is_who_holds_the_lock() {
        let locks = "1: POSIX  ADVISORY  WRITE 1 fe:01:7 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 fe:01:7 0 EOF\n";
        assert_eq!(holder(locks, "fe:01:7"), Some(4711));
        assert_eq!(holder(locks, "fe:01:8"), None);
        let run = tempfile::tempdir().unwrap();
        assert_eq!(guard(run.path()).unwrap(), None);
        let file = fs::File::create(run.path().join("lock")).unwrap();
        let held =
            nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(guard(run.path()).unwrap(), Some(std::process::id()));
        drop(held);
        assert_eq!(guard(run.path()).unwrap(), None);
    }
}

//! One emulated machine, from power-on to its end: no network card, and a hard limit on its time.
//!
//! QEMU's exit status says nothing (0 for a panic, too): what counts is what the machine itself reports, on a line of its own
//! beside the console.

use super::kernel::{Arch, Kernel};
use crate::process;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How a machine is started.
pub(crate) struct Boot<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    /// `/dev/vda` and so on. Nothing that the machine writes gets into these files.
    pub(crate) disks: &'a [&'a Path],
    pub(crate) processors: u32,
    /// MiB.
    pub(crate) memory: u32,
    pub(crate) limit: Duration,
    /// Where `console.log` and `report.log` go.
    pub(crate) logs: &'a Path,
}

/// What became of it.
pub(crate) struct Ended {
    /// What it reported.
    pub(crate) report: String,
    pub(crate) console: PathBuf,
    pub(crate) took: Duration,
    /// What of the host's processors it had: on a busy host, less than the time that passed, and what an idle one would take.
    pub(crate) processor: Duration,
    /// Whether it was still running at its limit.
    pub(crate) late: bool,
}

impl Boot<'_> {
    /// Run it to its end.
    pub(crate) fn run(&self) -> Result<Ended> {
        fs::create_dir_all(self.logs)?;
        let (console, report) = (self.logs.join("console.log"), self.logs.join("report.log"));
        fs::write(&report, "")?;
        let started = Instant::now();
        let mut machine = Running(self.qemu(&console, &report)?.spawn().context("qemu")?);
        let (late, processor) = machine.outlives(started + self.limit)?;
        let text = fs::read(&report)?;
        Ok(Ended {
            report: String::from_utf8_lossy(&text).replace('\r', ""),
            console,
            took: started.elapsed(),
            processor,
            late,
        })
    }

    fn qemu(&self, console: &Path, report: &Path) -> Result<Command> {
        let (program, machine, tty, report_tty): (_, &[&str], _, _) = match self.kernel.arch {
            // la57 costs a level of page tables for nothing; with erms memory is copied byte by byte, with smap and smep
            // each access to a process's memory leaves the translated code; pku is more to save at each switch.
            Arch::Amd64 => (
                "qemu-system-x86_64",
                &[
                    "-machine",
                    "q35",
                    "-cpu",
                    "max,la57=off,erms=off,smap=off,smep=off,pku=off",
                ],
                "ttyS0",
                "ttyS1",
            ),
            // `max` signs pointers, which is dear to emulate.
            Arch::Arm64 => (
                "qemu-system-aarch64",
                &["-machine", "virt", "-cpu", "cortex-a57"],
                "ttyAMA0",
                "hvc0",
            ),
        };
        let mut qemu = process::command(program, &["-accel", "tcg,thread=multi"])?;
        qemu.args(["-smp", &self.processors.to_string()])
            .args(machine)
            .args(["-m", &format!("{}M", self.memory)]);
        qemu.args(["-nodefaults", "-no-user-config", "-nographic"]);
        // No network card: no packet to a metadata address has a way out, whatever runs inside.
        qemu.args(["-nic", "none", "-no-reboot"]);
        qemu.args(self.disks.iter().flat_map(|disk| drive(disk)));
        qemu.arg("-serial").arg(to_file(console));
        match self.kernel.arch {
            Arch::Amd64 => qemu.arg("-serial").arg(to_file(report)),
            // This machine has one serial line.
            Arch::Arm64 => qemu
                .args(["-device", "virtio-serial-pci"])
                .arg("-chardev")
                .arg(format!("file,id=report,path={}", report.display()))
                .args(["-device", "virtconsole,chardev=report"]),
        };
        qemu.arg("-kernel").arg(self.kernel.image()?);
        qemu.arg("-initrd").arg(self.initramfs);
        // What guards against other processors' flaws is dear to emulate, and there is nothing here to guard.
        let line = format!(
            "console={tty} panic=-1 quiet mitigations=off imds_guard.disposable report=/dev/{report_tty}"
        );
        qemu.args(["-append", &line]);
        qemu.stdout(Stdio::null());
        Ok(qemu)
    }
}

fn drive(disk: &Path) -> [String; 2] {
    let file = disk.display();
    let drive = format!("file={file},format=raw,if=virtio,snapshot=on");
    ["-drive".to_owned(), drive]
}

fn to_file(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// Killed when dropped.
struct Running(Child);

impl Running {
    /// Whether it does, and what it had of the processors, as last seen.
    fn outlives(&mut self, deadline: Instant) -> Result<(bool, Duration)> {
        let mut had = Duration::ZERO;
        while self.0.try_wait()?.is_none() {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()));
            had = stat.map_or(had, |stat| processor(&stat).max(had));
            if Instant::now() > deadline {
                return Ok((true, had));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok((false, had))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Time of the processors in `/proc/PID/stat`, where a tick is a hundredth of a second on every Linux that we know.
fn processor(stat: &str) -> Duration {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = behind_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_time_is_found_behind_any_name() {
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14";
        assert_eq!(processor(stat), Duration::from_secs(2));
        assert_eq!(processor(""), Duration::ZERO);
    }
}

//! How exposed the units are: what is left open is what `systemd/README.md` relaxes, with a reason for each.

use super::machine::{Machine, text};

/// Units, and what `systemd-analyze security` may say of each at most: 0 can do nothing, 10 everything.
const MOST: [(&str, f64); 3] = [
    ("imds-guard.service", 3.0),
    ("imds-guard-proxy.service", 1.5),
    ("imds-guard-early.service", 3.0),
];

/// Each unit as this machine's systemd sees it.
pub(crate) fn assert_least(machine: &Machine) {
    for (unit, most) in MOST {
        let analyze = ["systemd-analyze", "security", "--no-pager", unit];
        let table = text(&machine.run(&analyze).expect("systemd-analyze"));
        // "→ Overall exposure level for imds-guard.service: 2.5 OK :-)"
        let level = table
            .rsplit_once(": ")
            .and_then(|(_, last)| last.split(' ').next());
        let level: f64 = level.and_then(|l| l.parse().ok()).expect(&table);
        assert!(level <= most, "{unit}: {level}, at most {most}\n{table}");
    }
}

//! `[[lifeline]]` tables: a file, a service and an endpoint, each of which can be what it says. Whether they are there, and in whose
//! hands the file is, is for whoever looks at the machine.

use super::Compiling;
use crate::policy::document::{Files, LifelineEntry};
use crate::policy::settings::{Lifeline, SHIPPED};

impl Compiling {
    pub(super) fn lifelines(&mut self, files: &Files) -> Vec<Lifeline> {
        files
            .lifeline
            .iter()
            .map(|entry| self.lifeline(files, entry))
            .collect()
    }

    fn lifeline(&mut self, files: &Files, entry: &LifelineEntry) -> Lifeline {
        let LifelineEntry {
            executable,
            unit,
            endpoint,
        } = entry;
        let path = &executable.value;
        if !path.starts_with('/') || path.ends_with('/') || path.split('/').any(|s| s == "..") {
            let title = format!("`{path}` is not the path of a file");
            let help =
                "write it as `readlink /proc/PID/exe` shows it: \"/usr/bin/google_guest_agent\"";
            self.error(&executable.place, title, help);
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@:\\".contains(&b);
        let stem = unit.value.strip_suffix(".service");
        if stem.is_none_or(str::is_empty) || !unit.value.bytes().all(plain) {
            let title = format!("`{}` is not a service", unit.value);
            let help = "write its whole name: \"google-guest-agent.service\"";
            self.error(&unit.place, title, help);
        }
        let added = files.endpoint.iter().map(|added| &*added.name.value);
        let mut names = SHIPPED.iter().map(|(name, ..)| *name).chain(added);
        if !names.any(|name| name == &*endpoint.value) {
            let title = format!("there is no endpoint `{}`", endpoint.value);
            let names: Vec<&str> = SHIPPED.iter().map(|(name, ..)| *name).collect();
            let help = format!(
                "write one of {}, or of your [[endpoint]] tables",
                names.join(", ")
            );
            self.error(&endpoint.place, title, help);
        }
        Lifeline {
            executable: executable.value.clone(),
            unit: unit.value.clone(),
            endpoint: endpoint.value.clone(),
        }
    }
}

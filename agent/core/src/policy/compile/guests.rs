//! `[[guest]]` tables: each name, address and id checked, and no interface told of twice.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use super::Compiling;
use crate::policy::document::{Files, GuestEntry, Text};
use crate::policy::settings::{Guest, Mac};

/// Longest `id`, in bytes: it stands in audit records and in `sub` claims.
const ID_LIMIT: usize = 128;

impl Compiling {
    pub(super) fn guests(&mut self, files: &Files) -> Vec<Guest> {
        let (mut interfaces, mut macs) = (HashMap::new(), HashMap::new());
        let mut guests = vec![];
        for entry in &files.guest {
            self.unique("guest", &entry.interface, &mut interfaces);
            if let Some(mac) = &entry.mac {
                self.unique("station", mac, &mut macs);
            }
            guests.push(self.guest(entry));
        }
        guests
    }

    fn guest(&mut self, entry: &GuestEntry) -> Guest {
        let interface = &entry.interface;
        let begins = interface.value.strip_suffix('*');
        if !Guest::names_interface(begins.unwrap_or(&interface.value)) {
            let title = format!("`{}` is not the name of an interface", interface.value);
            let help = "write the host's name of the tap or bridge port: at most 15 letters, digits, `.`, `_`, `-`; a `*` may end it";
            self.error(&interface.place, title, help);
        }
        if begins.is_some() {
            self.refuse_for_several(entry);
        }
        Guest {
            interface: interface.value.clone(),
            id: entry.id.as_ref().map(|id| self.guest_id(id)),
            addresses: entry
                .address
                .iter()
                .filter_map(|text| {
                    self.parsed(
                        text,
                        "an address or network",
                        "\"10.0.0.2\" or \"10.0.0.0/28\", without bits behind the mask",
                    )
                })
                .collect(),
            mac: entry.mac.as_ref().and_then(|text| {
                self.parsed::<Mac>(text, "the address of one station", "\"52:54:00:12:34:56\"")
            }),
        }
    }

    /// What is one guest's can't be that of each interface of a pattern.
    fn refuse_for_several(&mut self, entry: &GuestEntry) {
        let one = [
            ("id", entry.id.as_ref()),
            ("mac", entry.mac.as_ref()),
            ("address", entry.address.first()),
        ];
        for (key, text) in one {
            let Some(text) = text else { continue };
            let title = format!(
                "`{}` means several guests, and `{key}` is one guest's",
                entry.interface.value
            );
            let help = format!(
                "leave `{key}` out (each is known by its interface's name), or write a [[guest]] for each interface"
            );
            self.error(&text.place, title, help);
        }
    }

    fn guest_id(&mut self, id: &Text) -> Arc<str> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if id.value.is_empty() || id.value.len() > ID_LIMIT || !id.value.bytes().all(legal) {
            let title = format!("`{}` is not an id of a guest", id.value);
            let help =
                "write at most 128 letters, digits, `.`, `_`, `-`: for example its name or UUID";
            self.error(&id.place, title, help);
        }
        id.value.clone()
    }

    fn parsed<T: FromStr>(&mut self, text: &Text, what: &str, example: &str) -> Option<T> {
        let parsed = text.value.parse().ok();
        if parsed.is_none() {
            let title = format!("`{}` is not {what}", text.value);
            self.error(&text.place, title, format!("write {example}"));
        }
        parsed
    }
}

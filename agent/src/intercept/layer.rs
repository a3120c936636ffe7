//! The layers of interception: what each one stops, which pins it consists of, and how bad its absence is. The one table of
//! them: the guard notes at its start what became of each, and `imds-guard doctor` compares it with what the kernel has now.

use serde::{Deserialize, Serialize};

/// One layer between a caller and a metadata address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Its name in logs, in `doctor` and in the documents; stable.
    pub name: &'static str,
    /// What its absence means.
    pub need: Need,
    /// What it stops or does, for people.
    pub stops: &'static str,
    /// Names of its pinned links. A link of which there is one per interface or namespace is pinned as `NAME-…`.
    pub links: &'static [&'static str],
}

/// How bad it is when a layer is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// Without it there is a way round: the guard doesn't start.
    Required,
    /// It guards what others guard, too, or what only a holder of capabilities can do: used where the kernel has it.
    Optional,
    /// Nothing is weaker where the kernel hasn't got it, unless another check of `doctor` finds who makes it needed.
    Spare,
}

/// What became of a layer at the guard's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The layer's name.
    pub layer: String,
    /// `None`: in force. Else why it is not, in a line.
    pub absent: Option<String>,
}

impl Standing {
    /// Name of the file in the run directory in which the guard leaves them, as a JSON array, for `doctor`.
    pub const FILE: &'static str = "layers.json";
}

impl Layer {
    /// Whether a pin of this name is one of its links.
    #[must_use]
    pub fn owns(&self, pin: &str) -> bool {
        self.links.iter().any(|link| belongs(pin, link))
    }

    /// In force.
    #[must_use]
    pub fn stands(&self) -> Standing {
        Standing {
            layer: self.name.to_owned(),
            absent: None,
        }
    }

    /// Not in force, and why.
    #[must_use]
    pub fn absent(&self, why: impl Into<String>) -> Standing {
        Standing {
            layer: self.name.to_owned(),
            absent: Some(why.into()),
        }
    }
}

/// Whether `pin` is the link called `link`, or one of several of it.
#[must_use]
pub fn belongs(pin: &str, link: &str) -> bool {
    pin.strip_prefix(link)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// First among others' programs.
pub const AHEAD: &str = "order";
/// Frames, by tcx.
pub const FRAMES: &str = "frames";
/// Frames, by netfilter.
pub const NETFILTER: &str = "frames by netfilter";
/// Sockets that make their own packets, by BPF LSM.
pub const RAW_SOCKETS: &str = "raw sockets";

/// All of them, the first line of defence first.
pub const LAYERS: &[Layer] = &[
    Layer {
        name: "steering",
        need: Need::Required,
        stops: "TCP connect() to a guarded address: steered to the proxy, or refused",
        links: &["connect4", "connect6"],
    },
    Layer {
        name: AHEAD,
        need: Need::Spare,
        stops: "others' programs at the same cgroup that send a guarded address to a proxy of their own: ours runs first, too",
        links: &["ahead4", "ahead6"],
    },
    Layer {
        name: "attribution",
        need: Need::Required,
        stops: "who connected: handed from the connecting socket to the accepted one",
        links: &["established"],
    },
    Layer {
        name: "namespaces",
        need: Need::Optional,
        stops: "nothing: tells of new network namespaces, whose callers are refused until somebody listens there",
        links: &["sock_create"],
    },
    Layer {
        name: "peer name",
        need: Need::Optional,
        stops: "nothing: getpeername() shows the address that was dialled",
        links: &["getpeername4", "getpeername6"],
    },
    Layer {
        name: "datagrams",
        need: Need::Optional,
        stops: "UDP without connect() to an enforced address and port: refused",
        links: &["sendmsg4", "sendmsg6"],
    },
    Layer {
        name: "ports",
        need: Need::Optional,
        stops: "others who would take the listeners' port or the issuer's: refused, also while the guard is away",
        links: &["bind4", "bind6"],
    },
    Layer {
        name: "packets",
        need: Need::Optional,
        stops: "raw sockets, ping, fragments, other protocols, older connections to an enforced address: dropped",
        links: &["egress"],
    },
    Layer {
        name: FRAMES,
        need: Need::Optional,
        stops: "frames of packet sockets and of what is forwarded, to an enforced address by an uplink: dropped",
        links: &["uplink"],
    },
    Layer {
        name: NETFILTER,
        need: Need::Optional,
        stops: "the same, and frames that bypass the queueing discipline (nftables, no pins)",
        links: &[],
    },
    Layer {
        name: RAW_SOCKETS,
        need: Need::Optional,
        stops: "raw, packet and XDP sockets in the host's network namespace, where [hardening] says so: refused",
        links: &["raw_socket"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::load::{OPTIONAL, PROGRAMS};

    #[test]
    fn each_program_belongs_to_exactly_one_layer() {
        for program in PROGRAMS.into_iter().chain(OPTIONAL) {
            let owners = LAYERS.iter().filter(|layer| layer.owns(program)).count();
            assert_eq!(owners, 1, "{program}");
        }
    }

    #[test]
    fn links_per_interface_belong_to_their_layer_and_near_names_do_not() {
        assert!(belongs("uplink-2", "uplink"));
        assert!(belongs("connect4", "connect4"));
        assert!(!belongs("connect46", "connect4"));
        assert!(!belongs("connect", "connect4"));
    }
}

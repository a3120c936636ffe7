//! Where the running kernel keeps the struct members that the programs read: from its own type information (BTF).
//!
//! A reader of our own because it is small and fast: aya exposes no member offsets, and a full parse takes 30 ms of
//! the 150 that a start may take. It indexes the types once, then walks by name through anonymous members.
//! Format: Documentation/bpf/btf.rst of the kernel.

use imds_guard_ebpf::{ABSENT, Offsets};

use super::InterceptError;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// The offsets of the running kernel.
///
/// # Errors
/// [`InterceptError::NoBtf`] with what was not found.
pub(super) fn of_running_kernel() -> Result<Offsets, InterceptError> {
    let bytes = std::fs::read(VMLINUX).map_err(|e| InterceptError::NoBtf {
        detail: format!("{VMLINUX}: {e}"),
    })?;
    let btf = Btf::parse(&bytes).ok_or_else(|| InterceptError::NoBtf {
        detail: format!("{VMLINUX} is malformed"),
    })?;
    let at = |name: &str, path: &str| {
        btf.offset(name, path).ok_or_else(|| InterceptError::NoBtf {
            detail: format!("no {name}.{path}"),
        })
    };
    // `imds_guard_ebpf::Upid`, whose layout is asserted where it is defined.
    if (at("upid", "nr")?, at("upid", "ns")?) != (0, 8) {
        return Err(InterceptError::NoBtf {
            detail: "struct upid as these programs know it".into(),
        });
    }
    Ok(Offsets {
        task_group_leader: at("task_struct", "group_leader")?,
        task_start_boottime: at("task_struct", "start_boottime")?,
        task_real_parent: at("task_struct", "real_parent")?,
        task_tgid: at("task_struct", "tgid")?,
        task_comm: at("task_struct", "comm")?,
        task_cred: at("task_struct", "cred")?,
        task_mm: at("task_struct", "mm")?,
        cred_euid: at("cred", "euid")?,
        cred_egid: at("cred", "egid")?,
        mm_exe_file: at("mm_struct", "exe_file")?,
        file_inode: at("file", "f_inode")?,
        inode_ino: at("inode", "i_ino")?,
        inode_sb: at("inode", "i_sb")?,
        sb_dev: at("super_block", "s_dev")?,
        sock_cgroup: at("sock", "sk_cgrp_data.cgroup")?,
        sock_backlog: at("sock", "sk_ack_backlog")?,
        cgroup_kn: at("cgroup", "kn")?,
        kernfs_id: at("kernfs_node", "id")?,
        task_thread_pid: at("task_struct", "thread_pid")?,
        pid_ino: btf.offset("pid", "ino").unwrap_or(ABSENT),
        pid_level: at("pid", "level")?,
        pid_numbers: at("pid", "numbers")?,
        pid_namespace_inum: at("pid_namespace", "ns.inum")?,
        task_nsproxy: at("task_struct", "nsproxy")?,
        nsproxy_net: at("nsproxy", "net_ns")?,
        net_inum: at("net", "ns.inum")?,
        sock_mark: at("sock", "sk_mark")?,
        sock_socket: at("sock", "sk_socket")?,
        socket_file: at("socket", "file")?,
        file_cred: at("file", "f_cred")?,
        cred_fsuid: at("cred", "fsuid")?,
        cred_fsgid: at("cred", "fsgid")?,
        cgroup_effective: at("cgroup", "bpf.effective")?,
        array_items: at("bpf_prog_array", "items")?,
        item_size: item_size(&btf)?,
        prog_aux: at("bpf_prog", "aux")?,
        aux_id: at("bpf_prog_aux", "id")?,
    })
}

/// Size of an item of the arrays that hold a cgroup's programs, which begins with a pointer to its program.
fn item_size(btf: &Btf<'_>) -> Result<u32, InterceptError> {
    const ITEM: &str = "bpf_prog_array_item";
    match (btf.offset(ITEM, "prog"), btf.size(ITEM)) {
        (Some(0), Some(size)) => Ok(size),
        _ => Err(InterceptError::NoBtf {
            detail: format!("struct {ITEM} as these programs know it"),
        }),
    }
}

/// An index over BTF bytes. Bounds are checked by `get`: malformed input is `None`, never a panic.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Byte position of each type; id 0 is `void`.
    positions: Vec<u32>,
    /// Ids of the structs that are asked for, found in the one pass over all types.
    structs: Vec<(&'static str, u32)>,
}

/// The structs that [`Btf::parse`] looks out for.
const STRUCTS: [&str; 19] = [
    "task_struct",
    "cred",
    "mm_struct",
    "file",
    "inode",
    "super_block",
    "sock",
    "cgroup",
    "kernfs_node",
    "pid",
    "upid",
    "pid_namespace",
    "nsproxy",
    "net",
    "socket",
    "bpf_prog",
    "bpf_prog_aux",
    "bpf_prog_array",
    "bpf_prog_array_item",
];

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

/// Bytes that follow the 12-byte header of a type.
fn extra(kind: u32, vlen: usize) -> usize {
    match kind {
        1 | 14 | 17 => 4,
        3 => 12,
        KIND_STRUCT | KIND_UNION | 15 | 19 => vlen * 12,
        6 | 13 => vlen * 8,
        _ => 0,
    }
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = word(bytes, 4)? as usize;
        let section = |at: usize| {
            let start = header.checked_add(word(bytes, at)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut btf = Self {
            types,
            strings,
            positions: vec![u32::MAX],
            structs: Vec::new(),
        };
        let mut at = 0;
        while at < types.len() {
            let id = u32::try_from(btf.positions.len()).ok()?;
            btf.positions.push(u32::try_from(at).ok()?);
            let info = word(types, at + 4)?;
            let kind = (info >> 24) & 0x1f;
            if kind == KIND_STRUCT {
                btf.note_struct(id, word(types, at)?);
            }
            at += 12 + extra(kind, (info & 0xffff) as usize);
        }
        Some(btf)
    }

    /// Of several structs of one name the first counts, as for the kernel's own look-up.
    fn note_struct(&mut self, id: u32, name: u32) {
        let wanted = STRUCTS.into_iter().find(|n| self.name_is(name, n));
        if let Some(wanted) = wanted
            && self.struct_id(wanted).is_none()
        {
            self.structs.push((wanted, id));
        }
    }

    fn struct_id(&self, name: &str) -> Option<u32> {
        self.structs.iter().find(|(n, _)| *n == name).map(|s| s.1)
    }

    /// Bytes that a struct takes.
    fn size(&self, name: &str) -> Option<u32> {
        let (at, _) = self.resolve(self.struct_id(name)?)?;
        word(self.types, at + 8)
    }

    fn name_is(&self, name_offset: u32, name: &str) -> bool {
        self.strings
            .get(name_offset as usize..)
            .and_then(|s| s.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Position and info of a type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<(usize, u32)> {
        // Chains are a few long; the bound only stops a malformed cycle.
        for _ in 0..32 {
            let at = *self.positions.get(id as usize)? as usize;
            let info = word(self.types, at.checked_add(4)?)?;
            // typedef, volatile, const, restrict, type tag
            if matches!((info >> 24) & 0x1f, 8..=11 | 18) {
                id = word(self.types, at + 8)?;
            } else {
                return Some((at, info));
            }
        }
        None
    }

    /// Byte offset and type of a member, also through anonymous structs and unions.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let (at, info) = self.resolve(id)?;
        let is_composite = matches!((info >> 24) & 0x1f, KIND_STRUCT | KIND_UNION);
        if depth > 8 || !is_composite {
            return None;
        }
        (0..(info & 0xffff) as usize).find_map(|i| {
            let m = at + 12 + i * 12;
            let (member_name, of) = (word(self.types, m)?, word(self.types, m + 4)?);
            let bits = word(self.types, m + 8)?;
            // With the kind flag set the upper byte is a bit-field's size.
            let bytes = (if info >> 31 == 1 {
                bits & 0x00ff_ffff
            } else {
                bits
            }) / 8;
            if self.name_is(member_name, name) {
                return Some((bytes, of));
            }
            if !self.name_is(member_name, "") {
                return None;
            }
            let (inner, of) = self.member(of, name, depth + 1)?;
            Some((bytes + inner, of))
        })
    }

    fn offset(&self, name: &str, path: &str) -> Option<u32> {
        let mut id = self.struct_id(name)?;
        let mut total = 0;
        for part in path.split('.') {
            let (offset, of) = self.member(id, part, 0)?;
            total += offset;
            id = of;
        }
        Some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_bytes_are_refused_without_a_panic() {
        for length in 0..64 {
            let bytes = vec![0xff; length];
            if let Some(btf) = Btf::parse(&bytes) {
                assert_eq!(btf.offset("task_struct", "tgid"), None);
            }
        }
    }

    #[test]
    fn the_running_kernel_has_them_all() {
        if !std::path::Path::new(VMLINUX).exists() {
            assert!(matches!(
                of_running_kernel(),
                Err(InterceptError::NoBtf { .. })
            ));
            return;
        }
        let offsets = of_running_kernel().unwrap();
        assert_ne!(offsets.task_tgid, offsets.task_comm);
        assert_eq!(offsets.cred_egid, offsets.cred_euid + 4);
    }

    /// `struct inode { int pad; struct { int a; } ; }` built by hand: through the anonymous member.
    #[test]
    fn walks_through_anonymous_members() {
        let strings = b"\0inode\0pad\0a\0";
        let mut types = Vec::new();
        let mut put = |words: &[u32]| words.iter().for_each(|w| types.extend(w.to_ne_bytes()));
        put(&[0, 1 << 24, 4, 32]); // 1: int
        put(&[0, KIND_STRUCT << 24 | 1, 4, 11, 1, 0]); // 2: anonymous { a }
        put(&[1, KIND_STRUCT << 24 | 2, 8, 7, 1, 0, 0, 2, 32]); // 3: the struct
        let mut bytes = Vec::new();
        let length = |n: usize| u32::try_from(n).unwrap();
        let (tl, sl) = (length(types.len()), length(strings.len()));
        for w in [0x0001_eb9f, 24, 0, tl, tl, sl] {
            bytes.extend(u32::to_ne_bytes(w));
        }
        bytes.extend(&types);
        bytes.extend(strings);
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("inode", "a"), Some(4));
        assert_eq!(btf.offset("inode", "pad"), Some(0));
        assert_eq!(btf.offset("inode", "b"), None);
    }
}

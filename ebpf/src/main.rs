//! The kernel programs. Two sentences of theory, then read in this order:
//!
//! [`connect`] runs in the caller's context at each `connect()` and writes who it is into the socket's storage;
//! [`established`] carries that to the accepted socket while the handshake runs; [`peername`] shows the caller what it
//! dialled; [`arrival`] notes network namespaces that have no listener yet; [`share`] keeps the listener's queue for all; [`passing`] says who is let through all the same. [`caller`] is how the facts are read; [`maps`] and [`globals`] are what the programs share.
//!
//! Beside these five, and each of them optional: [`ahead`] does what [`connect`] does before others' programs; [`datagram`] and [`bind`] at the socket layer; [`egress`] and [`uplink`]
//! judge packets ([`packet`]) that no such hook has seen; [`raw_socket`] keeps such sockets from being made.
//!
//! Built for `bpfel-unknown-none` by `cargo xtask ebpf`, or by hand (bpf-linker on PATH):
//!
//! ```sh
//! RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
//! CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS="-C debuginfo=2 -C link-arg=--btf" \
//! cargo build -p imds-guard-ebpf --bin imds-guard-ebpf --profile bpf --target bpfel-unknown-none
//! ```
//!
//! (`RUSTC` names a rustc that has `core` for that target.) The object is
//! `target/bpfel-unknown-none/bpf/imds-guard-ebpf`; `agent/build.rs` says where it is looked for.
//!
//! Must never: trust a user-space address, a mark, a port or a uid for an exemption; let a guarded destination pass in
//! enforce because something was missing.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod ahead;
#[cfg(target_arch = "bpf")]
mod arrival;
#[cfg(target_arch = "bpf")]
mod bind;
#[cfg(target_arch = "bpf")]
mod caller;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod datagram;
#[cfg(target_arch = "bpf")]
mod egress;
#[cfg(target_arch = "bpf")]
mod established;
#[cfg(target_arch = "bpf")]
mod globals;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod passing;
#[cfg(target_arch = "bpf")]
mod peername;
#[cfg(target_arch = "bpf")]
mod raw_socket;
#[cfg(target_arch = "bpf")]
mod share;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod uplink;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a reachable panic: this only satisfies the compiler.
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// On the host there is nothing to run; the package still has to build there.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

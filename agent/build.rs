//! Embeds the kernel programs, or says loudly that there are none.
//!
//! In this order:
//! 1. `IMDS_GUARD_EBPF_OBJECT` names an object: that one, unconditionally (packagers, tests of other builds).
//! 2. `target/ebpf/imds-guard-ebpf.o` in the workspace, if `target/ebpf/imds-guard-ebpf.o.sources` beside it holds the
//!    hash of the present sources, so that a stale object is never embedded in silence.
//! 3. None: an empty object and `cfg(ebpf_stub)`; `imds-guard run` then refuses with the remedy.
//!
//! The hash rule, which `cargo xtask ebpf` follows when it writes the sidecar: lower-case hexadecimal SHA-256 over, for
//! each file of `ebpf/Cargo.toml` and `ebpf/src/**/*.rs` in the order of `std::path::Path`: the path relative to the
//! workspace root with `/` between parts (`ebpf/src/main.rs`), one NUL, the contents, one NUL. White space at the end of
//! the sidecar is ignored.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

fn main() -> io::Result<()> {
    println!("cargo::rustc-check-cfg=cfg(ebpf_stub)");
    println!("cargo::rerun-if-env-changed=IMDS_GUARD_EBPF_OBJECT");
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let required =
        |name: &str| variable(name).ok_or_else(|| io::Error::other(format!("no {name}")));
    let workspace = required("CARGO_MANIFEST_DIR")?.join("..");
    let embedded = required("OUT_DIR")?.join("imds-guard-ebpf.o");

    let default = workspace.join("target/ebpf/imds-guard-ebpf.o");
    let sidecar = workspace.join("target/ebpf/imds-guard-ebpf.o.sources");
    for path in [&default, &sidecar, &workspace.join("ebpf")] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let object = match variable("IMDS_GUARD_EBPF_OBJECT") {
        Some(named) => Some(named),
        None => match current(&workspace, &default, &sidecar) {
            Ok(()) => Some(default),
            Err(why) => {
                println!(
                    "cargo::warning=no kernel programs embedded ({why}): `imds-guard run` will refuse; build them with `cargo xtask ebpf`"
                );
                None
            }
        },
    };
    match object {
        Some(object) => {
            println!("cargo::rerun-if-changed={}", object.display());
            fs::copy(&object, &embedded)
                .map(drop)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", object.display())))
        }
        None => {
            println!("cargo::rustc-cfg=ebpf_stub");
            fs::write(&embedded, [])
        }
    }
}

/// Whether the object at its usual place was built from the present sources; if not, why.
fn current(workspace: &Path, object: &Path, sidecar: &Path) -> Result<(), String> {
    if !object.is_file() {
        return Err("none built".into());
    }
    let recorded =
        fs::read_to_string(sidecar).map_err(|e| format!("no record of its sources: {e}"))?;
    let present = sources_hash(workspace).map_err(|e| format!("sources not readable: {e}"))?;
    if recorded.trim() == present {
        Ok(())
    } else {
        Err("it was built from other sources".into())
    }
}

fn sources_hash(workspace: &Path) -> io::Result<String> {
    let mut paths = vec!["ebpf/Cargo.toml".to_owned()];
    collect(workspace, "ebpf/src", &mut paths)?;
    paths.sort_unstable_by(|a, b| Path::new(a).cmp(Path::new(b)));
    let mut hash = Sha256::new();
    for path in paths {
        hash.update(path.as_bytes());
        hash.update([0]);
        hash.update(fs::read(workspace.join(&path))?);
        hash.update([0]);
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn collect(workspace: &Path, below: &str, paths: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(workspace.join(below))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| io::Error::other("a source's name is not UTF-8"))?;
        let path = format!("{below}/{name}");
        if entry.file_type()?.is_dir() {
            collect(workspace, &path, paths)?;
        } else if path.ends_with(".rs") {
            paths.push(path);
        }
    }
    Ok(())
}

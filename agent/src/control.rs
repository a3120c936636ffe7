//! What an operator asks of the guard that runs: one ask and one answer over a socket in its run directory, for root alone. The
//! words of both sides, and the asking side; what answers is `guard::control`.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "control.sock";
/// Longest ask or answer, in bytes: a policy's errors are cut there.
pub const LIMIT: u64 = 64 << 10;
/// A reload compiles a policy and writes the kernel's tables: below a second, unless the machine has no time for anybody.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Read the configuration again.
    Reload {
        /// Seconds within which it has to be confirmed; `None`: for good.
        confirm_within_s: Option<u64>,
    },
    /// The policy that is on trial stays.
    Confirm,
    /// End connections, and forget what was fetched.
    Revoke {
        /// Of this workload; `None`: of all.
        workload: Option<String>,
    },
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done; if not, nothing has changed.
    pub done: bool,
    /// For the operator.
    pub told: String,
}

/// Asks the guard of that run directory.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` where none listens there, `PermissionDenied`; `UnexpectedEof` where it gave no answer.
pub fn ask(run_dir: &Path, ask: &Ask) -> io::Result<Answer> {
    let mut guard = UnixStream::connect(run_dir.join(SOCKET))?;
    guard.set_read_timeout(Some(PATIENCE))?;
    guard.set_write_timeout(Some(PATIENCE))?;
    guard.write_all(&serde_json::to_vec(ask)?)?;
    guard.shutdown(Shutdown::Write)?;
    let mut text = vec![];
    guard.take(LIMIT).read_to_end(&mut text)?;
    if text.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&text)?)
}

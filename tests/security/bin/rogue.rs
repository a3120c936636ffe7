//! `rogue SEAM`: a proxy that was taken over, at the guard's seam. It has all that the real one has, and sends what it likes.
//!
//! One command per line on standard input, one line of answer each: `accept`, `hang-up`,
//! `attest|recheck|sign RESOURCE SOCKET` with SOCKET one of `caller` (the accepted one), `own` (one that it connected
//! itself), `listener`, `seam`, `none`, `two`; `linger` (a close of the caller's socket that takes a minute), `nonsense`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it answers the test that drives it")]

use std::io::{BufRead as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use imds_guard::sys::scm;
use imds_guard_core::seam::{ANSWER_LIMIT, Answer, Ask, SignAsk, Subject, WelcomeFd};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};

struct Rogue {
    seam: OwnedFd,
    listener: TcpListener,
    caller: Option<TcpStream>,
    own: Option<TcpStream>,
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: rogue SEAM")?;
    let mut rogue = Rogue::knock(&path)?;
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = rogue.obey(&line);
        say(&answer.unwrap_or_else(|error| format!("error {error:#}")))?;
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}

impl Rogue {
    fn knock(path: &str) -> Result<Self> {
        let seam = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        connect(seam.as_raw_fd(), &UnixAddr::new(path)?)?;
        let (welcome, fds) = receive(seam.as_fd())?;
        let Answer::Welcome(welcome) = welcome else {
            bail!("no welcome")
        };
        let listener = welcome
            .fds
            .iter()
            .zip(fds)
            .find_map(|(what, fd)| matches!(what, WelcomeFd::Listener { .. }).then_some(fd))
            .context("no listener")?;
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(false)?;
        Ok(Self {
            seam,
            listener,
            caller: None,
            own: None,
        })
    }

    fn obey(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["accept"] => {
                self.caller = Some(self.listener.accept()?.0);
                Ok("accepted".into())
            }
            ["hang-up"] => self.hang_up(),
            ["attest", with] => self.ask(&Ask::Attest { id: 1 }, with),
            ["recheck", with] => self.ask(&Ask::Recheck { id: 2 }, with),
            ["sign", resource, with] => {
                let ask = SignAsk::Azure { resource };
                self.ask(&Ask::Sign { id: 3, ask }, with)
            }
            ["dial", with] => self.ask(&Ask::Dial { id: 5 }, with),
            ["linger"] => self.linger(),
            ["nonsense"] => {
                scm::send(self.seam.as_fd(), b"nonsense", &[])?;
                self.answer()
            }
            _ => bail!("no command {line}"),
        }
    }

    fn caller(&self) -> Result<&TcpStream> {
        self.caller.as_ref().context("nobody was accepted")
    }

    /// Ends the connection of the accepted socket, and keeps that, for its record.
    fn hang_up(&self) -> Result<String> {
        self.caller()?.shutdown(std::net::Shutdown::Both)?;
        Ok("hung up".into())
    }

    /// Leaves the guard the last descriptor of a socket whose close waits for a peer that never acknowledges.
    fn linger(&mut self) -> Result<String> {
        let caller = self.caller.take().context("nobody was accepted")?;
        caller.set_nonblocking(true)?;
        let piece = [0; 1 << 16];
        while (&caller).write(&piece).is_ok() {}
        let minute = libc::linger {
            l_onoff: 1,
            l_linger: 60,
        };
        setsockopt(&caller, sockopt::Linger, &minute)?;
        let ask = Ask::Attest { id: 4 }.encode()?;
        scm::send(self.seam.as_fd(), &ask, &[caller.as_fd()])?;
        // Where the guard has been quicker this close is the last one, and would have us wait in its place.
        std::thread::spawn(move || drop(caller));
        self.answer()
    }

    fn ask(&mut self, ask: &Ask<'_>, with: &str) -> Result<String> {
        if with == "own" && self.own.is_none() {
            self.own = Some(TcpStream::connect("169.254.169.254:80")?);
        }
        let fds: Vec<BorrowedFd<'_>> = match with {
            "caller" => vec![self.caller()?.as_fd()],
            "two" => vec![self.caller()?.as_fd(), self.caller()?.as_fd()],
            "own" => self.own.iter().map(|own| own.as_fd()).collect(),
            "listener" => vec![self.listener.as_fd()],
            "seam" => vec![self.seam.as_fd()],
            "none" => vec![],
            _ => bail!("no socket {with}"),
        };
        scm::send(self.seam.as_fd(), &ask.encode()?, &fds)?;
        self.answer()
    }

    fn answer(&self) -> Result<String> {
        loop {
            let (answer, _) = receive(self.seam.as_fd())?;
            return Ok(match answer {
                Answer::Policy(_)
                | Answer::Issuer(_)
                | Answer::Listeners(_)
                | Answer::Audit
                | Answer::Outbound
                | Answer::Revoke { .. }
                | Answer::Guests(_)
                | Answer::Welcome(_) => continue,
                Answer::Attested(attested) => match attested.subject {
                    Subject::Process(process) => format!("attested {}", process.tgid),
                    Subject::Guest(key) => format!("attested guest {key}"),
                },
                Answer::Signed(signed) => format!("signed {}", signed.audience),
                Answer::Unchanged { .. } => "unchanged".into(),
                Answer::Dialling { .. } => "a socket".into(),
                Answer::Refused { reason, .. } => format!("refused {reason:?}"),
            });
        }
    }
}

fn receive(seam: BorrowedFd<'_>) -> Result<(Answer, Vec<OwnedFd>)> {
    let mut buffer = vec![0; ANSWER_LIMIT];
    let received = scm::recv(seam, &mut buffer)?;
    if received.len == 0 {
        bail!("the guard has ended the seam");
    }
    Ok((Answer::decode(&buffer[..received.len])?, received.fds))
}

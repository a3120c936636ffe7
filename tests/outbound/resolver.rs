//! A resolver inside a world, at port 53 of an address of its loopback: knows each name, over UDP and TCP.

use anyhow::Result;
use imds_guard_tests::World;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How it answers over UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Whole,
    Truncated,
}

#[derive(Debug, Clone)]
pub(crate) struct Resolver(Arc<State>);

#[derive(Debug)]
struct State {
    /// Where each name leads, and how that is told.
    says: Mutex<(IpAddr, Manner)>,
    over_udp: AtomicUsize,
    over_tcp: AtomicUsize,
}

impl Resolver {
    /// At this address; each name leads to `to`, an IPv4 address.
    pub(crate) fn start(world: &World, at: &str, to: IpAddr) -> Result<Self> {
        let (udp, tcp) =
            world.enter(|| Ok((UdpSocket::bind((at, 53))?, TcpListener::bind((at, 53))?)))?;
        let resolver = Self(Arc::new(State {
            says: Mutex::new((to, Manner::Whole)),
            over_udp: AtomicUsize::new(0),
            over_tcp: AtomicUsize::new(0),
        }));
        let state = Arc::clone(&resolver.0);
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut question) {
                state.over_udp.fetch_add(1, Ordering::SeqCst);
                // Whoever asked may be gone.
                drop(udp.send_to(&state.answer(&question[..length], false), from));
            }
        });
        let state = Arc::clone(&resolver.0);
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                state.over_tcp.fetch_add(1, Ordering::SeqCst);
                drop(state.serve(stream));
            }
        });
        Ok(resolver)
    }

    pub(crate) fn leads_to(&self, to: IpAddr) {
        self.0.says().0 = to;
    }

    pub(crate) fn manner(&self, manner: Manner) {
        self.0.says().1 = manner;
    }

    pub(crate) fn over_udp(&self) -> usize {
        self.0.over_udp.load(Ordering::SeqCst)
    }

    pub(crate) fn over_tcp(&self) -> usize {
        self.0.over_tcp.load(Ordering::SeqCst)
    }
}

impl State {
    fn says(&self) -> std::sync::MutexGuard<'_, (IpAddr, Manner)> {
        self.says.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        let answer = self.answer(&question, true);
        let length = u16::try_from(answer.len())?.to_be_bytes();
        stream.write_all(&[&length[..], &answer].concat())?;
        Ok(())
    }

    /// No address for AAAA, the one that there is for A, which nobody remembers for longer than a second.
    fn answer(&self, question: &[u8], tcp: bool) -> Vec<u8> {
        let (to, manner) = *self.says();
        let end = 12
            + question
                .iter()
                .skip(12)
                .take_while(|byte| **byte != 0)
                .count()
            + 5;
        let cut = manner == Manner::Truncated && !tcp;
        let address = match to {
            IpAddr::V4(v4) if question.get(end - 3) == Some(&1) && !cut => Some(v4.octets()),
            _ => None,
        };
        let flags = if cut { 0x83 } else { 0x81 };
        let mut answer = question.iter().take(2).copied().collect::<Vec<u8>>();
        answer.extend([
            flags,
            0x80,
            0,
            1,
            0,
            u8::from(address.is_some()),
            0,
            0,
            0,
            0,
        ]);
        answer.extend(question.iter().take(end).skip(12));
        if let Some(address) = address {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend(address);
        }
        answer
    }
}

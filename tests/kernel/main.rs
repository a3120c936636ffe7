//! Interception and attribution, on the real kernel through the loaded programs. Each negative has a positive twin.

mod attribution;
mod cost;
mod guarded;
mod handshakes;
mod lifetime;
mod race;
mod steering;

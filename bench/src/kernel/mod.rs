//! What the kernel needs for the same job: a hot file, sent; CPU time of the thread that sends.
//!
//! | work | how | who takes it |
//! |---|---|---|
//! | `sendfile` | TCP, `sendfile` | a TUN that takes segments of up to 64 KiB (TSO) |
//! | `sendfile-mtu` | the same | a TUN that takes frames with a checksum to fill in, as a NIC without TSO |
//! | `write` | TCP, `write` from a mapping of the file | as `sendfile` |
//! | `read-write` | TCP, `read` and `write` | as `sendfile` |
//! | `zerocopy-gso` | UDP, `MSG_ZEROCOPY`, `UDP_SEGMENT`, from a mapping of the file; completions are read | `ifb`, which frees at once |
//!
//! ```text
//!   sender, core A                                        far end, core B
//!   sendfile / write ──> TCP ──> TUN's queue ──> read, 128 B of each ──> FarEnd: counts, acknowledges
//!                        ^─────────────────────── write, an acknowledgement ──┘
//!
//!   send ──> UDP ──> ifb: counts, frees ──> error queue ──> sender
//! ```
//!
//! Two things speak for the kernel and are not in `ns`. What the sender's thread does not do itself is not its CPU time:
//! an acknowledgement that finds no system call under way is worked off on the far end's core, and the segments that it
//! lets go are sent there. That is `ack_ns`; in a machine with a NIC it is the sender's machine that pays it. In frames
//! it is the larger part by far, for frames are cut there. And the far end frees the buffers, which is in `far_ns`, all of
//! that thread's time, spinning included; with a NIC it is the work of the sender's driver.
//!
//! What speaks against it: the two cores share a queue and the pages' counts of references, as a driver's interrupt on
//! another core would. The figures swing with it; a minimum over rounds means most.
//!
//! The interfaces live in a network namespace of this process and end with it; so does the file, which has no name.

mod error;
mod far_end;
mod gso;
mod hot;
mod namespace;
mod order;
mod pair;
mod sys;
mod tcp;
mod tun;

use std::time::Duration;

use serde_json::{Value, json};

pub use error::Error;
use hot::HotFile;
use order::{Order, Work};
use pair::Cores;
use tun::Tun;

/// What was done, as the far end or the interface saw it, and what it took.
struct Outcome {
    /// CPU time of the sending thread.
    cpu: Duration,
    /// Frames, or segments that were still whole.
    frames: u64,
    /// Payload, bytes.
    bytes: u64,
    /// What only this work has to say.
    more: Vec<(&'static str, Value)>,
}

/// The kernel, ready to send.
pub struct Contestant {
    cores: Cores,
    tun: Result<Tun, Error>,
    freeing: Result<gso::Freeing, Error>,
    file: Option<HotFile>,
}

impl Contestant {
    /// Makes the network. To be called while the process has one thread.
    ///
    /// # Errors
    /// Without a network namespace, or with no interface to send to.
    pub fn open() -> Result<Self, Error> {
        let cores = Cores::of_this_process()?;
        namespace::enter()?;
        let (tun, freeing) = (Tun::open(), gso::Freeing::open());
        if let (Err(why), Err(_)) = (&tun, &freeing) {
            return Err(Error::Nothing(why.to_string()));
        }
        Ok(Self { cores, tun, freeing, file: None })
    }

    /// What is said first: who this is, which works it does, and why not the others.
    pub fn ready(&self) -> Value {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut works = Vec::new();
        let mut cannot = serde_json::Map::new();
        for work in Work::ALL {
            match self.obstacle(work) {
                None => works.push(work.name()),
                Some(why) => drop(cannot.insert(work.name().into(), why.to_string().into())),
            }
        }
        json!({ "ready": format!("Linux {}", release.trim()), "works": works, "cannot": cannot })
    }

    fn obstacle(&self, work: Work) -> Option<&Error> {
        match work {
            Work::ZerocopyGso => self.freeing.as_ref().err(),
            _ => self.tun.as_ref().err(),
        }
    }

    /// Does what `line` orders.
    ///
    /// # Errors
    /// An order that is none, a work that cannot be done here, a transfer that was not whole or not in time.
    pub fn answer(&mut self, line: &str) -> Result<Value, Error> {
        let order: Order = line.parse()?;
        if let Some(why) = self.obstacle(order.work) {
            return Err(Error::NotHere { work: order.work.name(), why: why.to_string() });
        }
        let file = HotFile::of(&mut self.file, order.mib)?;
        file.warm();
        let outcome = match (&self.tun, &self.freeing) {
            (Ok(tun), _) if order.work != Work::ZerocopyGso => tcp::run(tun, file, &order, &self.cores)?,
            (_, Ok(freeing)) => freeing.run(file, &order)?,
            _ => unreachable!("an obstacle was reported"),
        };
        outcome.whole(file.len())?;
        let mut answer = json!({
            "work": order.work.name(),
            "ns": outcome.cpu.as_nanos() as u64,
            "frames": outcome.frames,
            "bytes": outcome.bytes,
        });
        for (key, value) in outcome.more {
            answer[key] = value;
        }
        Ok(answer)
    }
}

impl Outcome {
    /// Checks that what arrived is what was sent.
    fn whole(&self, sent: u64) -> Result<(), Error> {
        if self.bytes == sent { Ok(()) } else { Err(Error::Short { sent, arrived: self.bytes }) }
    }
}

/// `{"skip": why}` or `{"error": why}`.
pub fn refusal(kind: &str, why: &Error) -> Value {
    json!({ kind: why.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_that_is_not_whole_is_an_error() {
        let outcome = |bytes| Outcome { cpu: Duration::ZERO, frames: 1, bytes, more: vec![] };
        assert!(outcome(10).whole(10).is_ok());
        let why = outcome(9).whole(10).unwrap_err();
        assert_eq!(refusal("error", &why), json!({ "error": "sent 10 bytes, but 9 were counted where they went" }));
        assert!(outcome(11).whole(10).is_err());
    }
}

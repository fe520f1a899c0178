//! A file over UDP without a copy: `MSG_ZEROCOPY` and `UDP_SEGMENT`, into an interface that counts and frees at once.
//!
//! That interface is `ifb`. It takes what a NIC with all offloads takes, and frees what was not redirected to it. (`veth`,
//! loopback and TUN hand packets to a receiver on this machine, for which the kernel copies zero-copy pages; `dummy` would
//! do as well.)

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::hot::HotFile;
use super::namespace::{Counters, ip};
use super::order::Order;
use super::pair::cpu_time;
use super::{Error, Outcome, sys};

/// The interface that frees.
pub struct Freeing(());

impl Freeing {
    /// The interface, up.
    ///
    /// # Errors
    /// The kernel has no `ifb`, or there is no `ip`.
    pub fn open() -> Result<Self, Error> {
        ip(&format!("link add {NAME} type ifb"))?;
        ip(&format!("address add {NET}.1/24 dev {NAME}"))?;
        ip(&format!("link set dev {NAME} up mtu 9000"))?;
        Ok(Self(()))
    }

    /// Sends the file as `order` says.
    ///
    /// # Errors
    /// A send that fails, completions that do not come.
    pub fn run(&self, file: &HotFile, order: &Order) -> Result<Outcome, Error> {
        let payload = usize::from(order.payload);
        let socket = connect(order.payload).map_err(Error::system("a zero-copy socket"))?;
        let sent_at_once = (LONGEST / payload).min(MOST_SEGMENTS) * payload;
        let before = Counters::of(NAME)?;
        let start = cpu_time();
        let done = timed_zero_copy(&socket, &file.map, sent_at_once)?;
        let cpu = cpu_time() - start;
        let after = Counters::of(NAME)?;
        let frames = after.rx_packets - before.rx_packets;
        let bytes = (after.rx_bytes - before.rx_bytes).saturating_sub(frames * HEADERS);
        let more = vec![("completed", json!(done.sends)), ("copied", json!(done.copied))];
        Ok(Outcome { cpu, frames, bytes, more })
    }
}

/// What the error queue has said.
#[derive(Default)]
struct Done {
    /// Sends whose pages are free again.
    sends: u64,
    /// How many of them were copied after all.
    copied: u64,
}

impl Done {
    /// Reads the error queue until it is empty.
    fn read(&mut self, socket: &Socket) -> io::Result<()> {
        while let Some(completion) = sys::completion(socket)? {
            self.sends += u64::from(completion.sends);
            self.copied += if completion.copied { completion.sends.into() } else { 0 };
        }
        Ok(())
    }
}

fn connect(payload: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    sys::allow_zero_copy(&socket)?;
    sys::set_segment(&socket, payload)?;
    let to: SocketAddr = format!("{NET}.2:9").parse().expect("an address and a port");
    socket.connect(&to.into())?;
    Ok(socket)
}

/// Sends `bytes`, `at_once` of them a call, and waits until the kernel has let go of all.
#[inline(never)]
fn timed_zero_copy(socket: &Socket, bytes: &[u8], at_once: usize) -> Result<Done, Error> {
    let refused = || Error::system("a send without a copy");
    let (mut done, mut sends) = (Done::default(), 0);
    for run in bytes.chunks(at_once) {
        let len = socket.send_with_flags(run, libc::MSG_ZEROCOPY).map_err(refused())?;
        if len < run.len() {
            return Err(Error::Short { sent: run.len() as u64, arrived: len as u64 });
        }
        sends += 1;
        if sends % BATCH == 0 {
            done.read(socket).map_err(refused())?;
        }
    }
    let begin = Instant::now();
    loop {
        done.read(socket).map_err(refused())?;
        if done.sends == sends {
            return Ok(done);
        }
        if begin.elapsed() > PATIENCE {
            let found = format!("{} of {sends} sends are complete", done.sends);
            return Err(Error::Late { asked: "the last completion", deadline: PATIENCE, found });
        }
        thread::sleep(Duration::from_micros(100));
    }
}

const NAME: &str = "race1";
/// The first three bytes of both addresses (RFC 5737, TEST-NET-2).
const NET: &str = "198.51.100";
/// Ethernet, IPv4 and UDP, bytes.
const HEADERS: u64 = 14 + 20 + 8;
/// Most that an IPv4 packet holds behind its own header and UDP's, bytes.
const LONGEST: usize = 65_535 - 20 - 8;
/// Most datagrams a call that every kernel with `UDP_SEGMENT` takes (`UDP_MAX_SEGMENTS`).
const MOST_SEGMENTS: usize = 64;
/// Sends between two looks into the error queue. Completions in a row are one message there.
const BATCH: u64 = 32;
/// How long any wait may take.
const PATIENCE: Duration = Duration::from_secs(10);

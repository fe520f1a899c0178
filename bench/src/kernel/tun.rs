//! A TUN interface, and the thread that plays the far end behind it.

use std::fs::{File, OpenOptions};
use std::hint;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::far_end::FarEnd;
use super::pair::cpu_time;
use super::{Error, namespace, sys};

/// An interface whose far side is a descriptor.
pub struct Tun {
    file: File,
}

impl Tun {
    /// The interface, up, with [`NEAR`](Self::NEAR) as its address.
    ///
    /// # Errors
    /// There is no `/dev/net/tun`, or no `ip`.
    pub fn open() -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let file = options.open("/dev/net/tun").map_err(Error::Tun)?;
        sys::attach_tun(&file, NAME).map_err(Error::Tun)?;
        namespace::ip(&format!("address add {}.1/24 dev {NAME}", Self::NET))?;
        namespace::ip(&format!("link set dev {NAME} up mtu 9000 txqueuelen {QUEUE}"))?;
        Ok(Self { file })
    }

    /// The first three bytes of both addresses: the near end is 1, the far end 2 (RFC 5737, TEST-NET-1).
    pub const NET: &str = "192.0.2";

    /// Takes whole segments from now on, or frames; with the checksum to be filled in, in both cases.
    ///
    /// # Errors
    /// The system refuses.
    pub fn take_segments(&self, whole: bool) -> Result<(), Error> {
        let offloads = if whole { libc::TUN_F_CSUM | libc::TUN_F_TSO4 } else { libc::TUN_F_CSUM };
        sys::set_offloads(&self.file, offloads).map_err(Error::system("offloads of the TUN interface"))
    }

    /// Plays `far` until `stop`, and says in `arrived` how many bytes it has. It spins when there is a core for it: a
    /// thread that sleeps would have the sender pay for waking it, which a NIC does not.
    ///
    /// Returns the CPU time of handing over the acknowledgements: in that call the kernel works them off, and sends what
    /// they let go.
    ///
    /// # Errors
    /// The descriptor fails.
    pub fn play(&self, far: &mut FarEnd, spin: bool, arrived: &AtomicU64, stop: &AtomicBool) -> io::Result<Duration> {
        let mut packet = [0; HEADERS];
        let mut answer = Vec::with_capacity(HEADERS);
        let mut unanswered = 0;
        let mut answering = Duration::ZERO;
        while !stop.load(Ordering::Acquire) {
            let taken = match (&self.file).read(&mut packet) {
                Ok(len) => Some(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => return Err(error),
            };
            if let Some(len) = taken {
                far.take(packet.get(VNET..len).unwrap_or_default());
                unanswered += 1;
                if unanswered < BATCH {
                    continue;
                }
            }
            unanswered = 0;
            answer.clear();
            answer.resize(VNET, 0);
            if far.answer(&mut answer) {
                let start = cpu_time();
                // An interface that drops, drops: the sender repeats.
                let _ = (&self.file).write(&answer);
                answering += cpu_time() - start;
                arrived.store(far.bytes, Ordering::Release);
            } else if taken.is_none() && spin {
                hint::spin_loop();
            } else if taken.is_none() {
                let brief = Timespec::try_from(BRIEF).expect("it is brief");
                poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&brief))?;
            }
        }
        Ok(answering)
    }
}

const NAME: &str = "race0";
/// Packets in the interface's queue: more than a window of frames.
const QUEUE: u32 = 50_000;
/// Bytes before each packet (`struct virtio_net_hdr`): all zeroes when nothing is left to do.
const VNET: usize = 10;
/// What is read of a packet: enough for both headers with all options.
const HEADERS: usize = VNET + 60 + 60;
/// Packets for one acknowledgement, at most.
const BATCH: u32 = 16;
/// How long a far end that does not spin sleeps without looking at `stop`.
const BRIEF: Duration = Duration::from_millis(10);

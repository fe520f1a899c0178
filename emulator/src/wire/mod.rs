//! What is at the other end of a model's cable.

mod cable;
mod lossy;
mod pcap;
mod sink;
mod tap;
mod vlan;

use std::io;
use std::path::{Path, PathBuf};

pub use cable::{Cable, Loopback};
pub use lossy::Lossy;
pub use pcap::Pcap;
pub use sink::{Sink, SinkReport};
pub use tap::Tap;
pub use vlan::Vlan;

/// Frames without preamble and frame check sequence go in and come out; neither call waits.
pub trait Wire: Send {
    /// Sends a frame; a wire that cannot take it drops it, as wires do.
    fn transmit(&mut self, frame: &[u8]);

    /// Puts the next frame that arrived into `frame` (replacing what is there); false when there is none.
    fn receive(&mut self, frame: &mut Vec<u8>) -> bool;

    /// Whether there is link.
    fn is_up(&self) -> bool {
        true
    }
}

/// Frames that a wire in memory holds; more are dropped.
pub const QUEUE: usize = 4096;

/// Why there is no such wire.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not the name of a wire.
    #[error("wire: '{0}' is none; use loopback, sink, tap:NAME, pcap:PATH or vlan:ID:WIRE")]
    Unknown(String),
    /// The machine has no TAP device.
    #[error("wire: there is no /dev/net/tun; load the module (modprobe tun), or give the container that device")]
    NoTun,
    /// The TAP device may not be used.
    #[error(
        "wire: tap:{name}: not permitted; run with CAP_NET_ADMIN, or let root make it for you: ip tuntap add dev {name} mode tap user $USER"
    )]
    TapNotPermitted {
        /// The interface.
        name: String,
    },
    /// The TAP interface belongs to another program.
    #[error("wire: tap:{name}: another program has it open; stop that program or use another name")]
    TapBusy {
        /// The interface.
        name: String,
    },
    /// A name that no interface can have.
    #[error("wire: '{0}' is no interface name; use 1 to 15 letters, digits, '-' or '_'")]
    TapName(String),
    /// The TAP device failed otherwise.
    #[error("wire: tap:{name}: {source}")]
    Tap {
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The pcap file cannot be written.
    #[error("wire: pcap file {}: {text}", path.display())]
    Pcap {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        text: String,
    },
}

/// Makes the wire that a text names: `loopback`, `sink`, `tap:NAME`, `pcap:PATH`, or `vlan:ID:WIRE`, which is a
/// switch's access port in front of another.
///
/// # Errors
/// [`enum@Error`], with what to do.
pub fn parse(text: &str) -> Result<Box<dyn Wire>, Error> {
    match text.split_once(':') {
        None if text == "loopback" => Ok(Box::new(Loopback::new())),
        None if text == "sink" => Ok(Box::new(Sink::new())),
        Some(("tap", name)) => Ok(Box::new(Tap::open(name)?)),
        Some(("pcap", path)) if !path.is_empty() => Ok(Box::new(Pcap::create(Path::new(path))?)),
        Some(("vlan", rest)) => match rest.split_once(':').map(|(id, far)| (id.parse(), far)) {
            Some((Ok(id @ 1..=4094), far)) => Ok(Box::new(Vlan::new(parse(far)?, id))),
            _ => Err(Error::Unknown(text.to_owned())),
        },
        _ => Err(Error::Unknown(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_wires() {
        assert!(parse("loopback").is_ok());
        assert!(parse("sink").is_ok());
        let folder = tempfile::tempdir().unwrap();
        assert!(parse(&format!("pcap:{}", folder.path().join("a.pcap").display())).is_ok());
        assert!(parse("vlan:5:loopback").is_ok());
        for wrong in ["", "loop", "pcap:", "loopback:", "udp:1", "vlan:5", "vlan:0:sink", "vlan:4095:sink", "vlan:5:"] {
            assert!(matches!(parse(wrong), Err(Error::Unknown(_))), "{wrong}");
        }
        assert!(matches!(parse("tap:"), Err(Error::TapName(_))));
        assert!(matches!(parse("tap:a/b"), Err(Error::TapName(_))));
        assert!(matches!(parse("tap:sixteen-letters-"), Err(Error::TapName(_))));
        let missing = parse("pcap:/nowhere/at/all.pcap").err().unwrap().to_string();
        assert!(missing.contains("/nowhere/at/all.pcap"), "{missing}");
    }
}

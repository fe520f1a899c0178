//! `--capture FILE[,port=N]`: the frames that a [`Station`](crate::station::Station) sends and receives, in a pcap file.
//!
//! A capture copies: every frame's payload is read a second time, by the processor, so what is captured is no longer the
//! zero-copy path at its speed. Without one, the data path asks once a batch whether there is one, and no more.
//!
//! - A frame is captured as its caller posted it, before the NIC has it. What is the NIC's work is filled in as the NIC will
//!   do it (IP length, IP, UDP and TCP checksums), of the bytes as they are at that moment: a page that is sent without a hold
//!   and written meanwhile goes out with others. A frame that the NIC cuts into segments is captured whole, as on Linux; a tag
//!   that the NIC inserts is not shown.
//! - A received frame is captured as the NIC gave it, those with wrong checksums included; its tag is stripped.
//! - Where what is sent comes back (a loopback), every frame is there twice: sent, and received.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etherparse::checksum::Sum16BitWords;
use etherparse::{LaxSlicedPacket, TransportSlice};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};
use stillwire_driver::{Ip, Offload, Transport};

use crate::station::Cargo;
use crate::{Error, Result};

/// What is to be captured, and where to: `FILE[,port=N]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// The file; emptied if it is there.
    pub path: PathBuf,
    /// Only UDP datagrams from or to this port.
    pub port: Option<u16>,
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let refuse = || format!("'{text}': write FILE or FILE,port=N with N from 0 to 65535; that is the only filter");
        let (path, port) = match text.rsplit_once(',') {
            Some((path, filter)) if filter.contains('=') => {
                let port = filter.strip_prefix("port=").and_then(|port| port.parse().ok());
                (path, Some(port.ok_or_else(refuse)?))
            }
            _ => (text, None),
        };
        if path.is_empty() { Err(refuse()) } else { Ok(Self { path: path.into(), port }) }
    }
}

/// A pcap file that is being written. What a batch brought is written whole, so the file of a killed process can be read.
pub struct Capture {
    spec: Spec,
    file: File,
    writer: PcapWriter<Records>,
    /// What is not in the file yet.
    records: Records,
    /// Frames in that.
    in_batch: u64,
    frame: Vec<u8>,
    counts: Counts,
    failure: Option<io::Error>,
}

/// What a capture has done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Frames in the file.
    pub frames: u64,
    /// Frames that the filter left out.
    pub filtered: u64,
    /// Frames that could not be written, or read.
    pub lost: u64,
}

impl Capture {
    /// Makes the file, for this user only, or empties it if it is there.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written.
    pub fn create(spec: Spec) -> Result<Self> {
        let error = |source| Error::File { path: spec.path.clone(), source };
        // It has the bytes of files that others may not be allowed to read. One that is there keeps its mode.
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let (file, records) = (options.open(&spec.path).map_err(error)?, Records::default());
        let header = PcapHeader {
            snaplen: LONGEST,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(records.clone(), header).map_err(|pcap| error(io_error(pcap)))?;
        let counts = Counts::default();
        let mut capture = Self { file, writer, records, in_batch: 0, frame: Vec::new(), counts, failure: None, spec };
        capture.write_out().map_err(|source| Error::File { path: capture.spec.path.clone(), source })?;
        Ok(capture)
    }

    /// A frame of `header` and the bytes `range` of `payload`, which is about to be posted.
    pub fn posted(&mut self, header: &[u8], offload: Option<Offload>, payload: Option<(&Cargo, Range<usize>)>) {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(header);
        let read = payload.map_or(Ok(()), |(cargo, range)| {
            frame.resize(header.len() + range.len(), 0);
            cargo.read_at(range.start, &mut frame[header.len()..])
        });
        match (read, offload) {
            (Err(error), _) => self.lose(1, io::Error::other(error)),
            (Ok(()), Some(offload)) => {
                complete(&mut frame, offload);
                self.record(&frame);
            }
            (Ok(()), None) => self.record(&frame),
        }
        self.frame = frame;
    }

    /// A frame that came in.
    pub fn received(&mut self, frame: &[u8]) {
        self.record(frame);
    }

    /// Brings what was captured to the file.
    pub fn end_batch(&mut self) {
        let frames = std::mem::take(&mut self.in_batch);
        match self.write_out() {
            Ok(()) => self.counts.frames += frames,
            Err(error) => self.lose(frames, error),
        }
    }

    /// How many frames there were.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What a program says of it at its end: how many frames there are, and before that why some are missing, if they are.
    pub fn tell(&self) -> Vec<String> {
        let (counts, path) = (self.counts, self.spec.path.display());
        let missing =
            self.failure.as_ref().map(|why| format!("note: {} frames are missing from {path}: {why}", counts.lost));
        let there = format!("{} frames in {path}, {} left out by the filter", counts.frames, counts.filtered);
        missing.into_iter().chain([there]).collect()
    }

    fn record(&mut self, frame: &[u8]) {
        if self.spec.port.is_some_and(|port| !has_port(frame, port)) {
            self.counts.filtered += 1;
            return;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        match self.writer.write_packet(&PcapPacket::new(time, frame.len() as u32, frame)) {
            Ok(_) => self.in_batch += 1,
            Err(error) => self.lose(1, io_error(error)),
        }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let mut records = self.records.0.borrow_mut();
        let written = if records.is_empty() { Ok(()) } else { self.file.write_all(&records) };
        records.clear();
        written
    }

    fn lose(&mut self, frames: u64, error: io::Error) {
        self.counts.lost += frames;
        if self.failure.is_none() {
            tracing::error!(file = %self.spec.path.display(), %error, "frames are missing from the capture");
            self.failure = Some(error);
        }
    }
}

/// Takes what the pcap writer gives in pieces.
#[derive(Clone, Default)]
struct Records(Rc<RefCell<Vec<u8>>>);

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// Whether the frame is a UDP datagram from or to `port`.
fn has_port(frame: &[u8], port: u16) -> bool {
    let transport = LaxSlicedPacket::from_ethernet(frame).ok().and_then(|packet| packet.transport);
    matches!(transport, Some(TransportSlice::Udp(udp)) if udp.source_port() == port || udp.destination_port() == port)
}

/// Fills in what the NIC was asked to: lengths, and checksums over the frame as it is. A header that does not go with
/// `offload` is left alone; the driver refuses it.
fn complete(frame: &mut [u8], offload: Offload) {
    let ip_at = usize::from(offload.ethernet_len);
    let l4_at = ip_at + usize::from(offload.ip_len);
    let shortest = ip_at + if offload.ip == Ip::V4 { 20 } else { 40 };
    if l4_at < shortest || frame.len() < l4_at {
        return;
    }
    // What is cut into segments may be longer than IP can say: 0 then, which readers take for "to the end of the frame".
    let (ip_len, l4_len) = (frame.len() - ip_at, frame.len() - l4_at);
    let told = |len: usize| u16::try_from(len).unwrap_or(0).to_be_bytes();
    let addresses = match offload.ip {
        Ip::V4 => {
            frame[ip_at + 2..ip_at + 4].copy_from_slice(&told(ip_len));
            frame[ip_at + 10..ip_at + 12].fill(0);
            let sum = Sum16BitWords::new().add_slice(&frame[ip_at..l4_at]).ones_complement();
            frame[ip_at + 10..ip_at + 12].copy_from_slice(&sum.to_ne_bytes());
            ip_at + 12..ip_at + 20
        }
        Ip::V6 => {
            frame[ip_at + 4..ip_at + 6].copy_from_slice(&told(ip_len - 40));
            ip_at + 8..ip_at + 40
        }
    };
    let (protocol, checksum_at) = match offload.transport {
        Some(Transport::Udp) if l4_len >= 8 => (17, l4_at + 6),
        Some(Transport::Tcp) if l4_len >= 20 => (6, l4_at + 16),
        _ => return,
    };
    if protocol == 17 {
        frame[l4_at + 4..l4_at + 6].copy_from_slice(&told(l4_len));
    }
    frame[checksum_at..checksum_at + 2].fill(0);
    // The pseudo header's length has 32 bits in IPv6, and its upper half is 0 for all that fits (RFC 8200, 8.1).
    let pseudo = Sum16BitWords::new().add_slice(&frame[addresses]).add_2bytes([0, protocol]).add_2bytes(told(l4_len));
    let sum = pseudo.add_slice(&frame[l4_at..]);
    // A UDP sum of 0 goes out as 0xffff, for 0 says that there is none (RFC 768).
    let sum = if protocol == 17 { sum.to_ones_complement_with_no_zero() } else { sum.ones_complement() };
    frame[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_ne_bytes());
}

/// Longest frame that readers are told to expect, bytes: more than any segmented one.
const LONGEST: u32 = 256 << 10;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use etherparse::PacketBuilder;
    use pcap_file::pcap::PcapReader;
    use proptest::prelude::*;

    use super::*;

    fn read(path: &Path) -> Vec<Vec<u8>> {
        let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
        std::iter::from_fn(|| reader.next_packet().map(|packet| packet.unwrap().data.into_owned())).collect()
    }

    fn datagram(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
        ip.udp(ports.0, ports.1).write(&mut frame, payload).unwrap();
        frame
    }

    #[test]
    fn flags() {
        let spec = |text: &str| text.parse::<Spec>();
        let whole = |path: &str, port| Ok(Spec { path: path.into(), port });
        assert_eq!(spec("a.pcap"), whole("a.pcap", None));
        assert_eq!(spec("a,b.pcap"), whole("a,b.pcap", None));
        assert_eq!(spec("/x/a,b.pcap,port=9000"), whole("/x/a,b.pcap", Some(9000)));
        for bad in ["", ",port=1", "a,port=", "a,port=65536", "a,prot=1", "a,port=1x"] {
            assert!(spec(bad).unwrap_err().contains("FILE,port=N"), "{bad}");
        }
    }

    #[test]
    fn the_file_is_whole_after_each_batch_and_the_filter_filters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("capture");
        let mut capture = Capture::create(Spec { path: path.clone(), port: Some(7) }).unwrap();
        assert!(read(&path).is_empty(), "a header, and no frame");
        let (from, to, other) = (datagram((7, 1), b"a"), datagram((1, 7), &[9; 2000]), datagram((1, 2), b"c"));
        for frame in [&from, &to, &other, &vec![0xff; 60]] {
            capture.received(frame);
        }
        capture.posted(&[0; 14], None, None);
        capture.end_batch();
        // The capture still goes on: what is in the file now is what a killed process leaves.
        assert_eq!(read(&path), [from, to]);
        assert_eq!(capture.counts(), Counts { frames: 2, filtered: 3, lost: 0 });
    }

    #[test]
    fn what_can_not_be_written_is_counted_and_does_not_end_the_send() {
        assert!(Capture::create(Spec { path: "/nowhere/file".into(), port: None }).is_err());
        let folder = tempfile::tempdir().unwrap();
        let mut capture = Capture::create(Spec { path: folder.path().join("capture"), port: None }).unwrap();
        capture.file = File::options().write(true).open("/dev/full").unwrap();
        capture.received(&[0; 60]);
        capture.end_batch();
        let told = capture.tell();
        assert!(told.len() == 2 && told[0].contains("1 frames are missing"), "{told:?}");
        assert_eq!(capture.counts(), Counts { frames: 0, filtered: 0, lost: 1 });
    }

    proptest! {
        /// What is filled in is what an independent library computes for the whole frame.
        #[test]
        fn offloads_are_completed(
            v6: bool, tcp: bool, addresses: [u8; 32], ports: (u16, u16),
            payload in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let start = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let half = |at: usize| -> [u8; 16] { addresses[at..at + 16].try_into().unwrap() };
            let quarter = |at: usize| -> [u8; 4] { addresses[at..at + 4].try_into().unwrap() };
            let ip = if v6 { start.ipv6(half(0), half(16), 64) } else { start.ipv4(quarter(0), quarter(4), 64) };
            let mut expect = Vec::new();
            if tcp {
                ip.tcp(ports.0, ports.1, 1, 1024).write(&mut expect, &payload).unwrap();
            } else {
                ip.udp(ports.0, ports.1).write(&mut expect, &payload).unwrap();
            }
            let offload = match (v6, tcp) {
                (false, false) => Offload::UDP_V4, (false, true) => Offload::TCP_V4,
                (true, false) => Offload::UDP_V6, (true, true) => Offload::TCP_V6,
            };
            let mut frame = expect.clone();
            let l4_at = if v6 { 54 } else { 34 };
            let (lengths, sum) = (if v6 { 18..20 } else { 16..18 }, l4_at + if tcp { 16 } else { 6 });
            frame[lengths].fill(0xa5);
            frame[sum..sum + 2].fill(0xa5);
            if !v6 { frame[24..26].fill(0xa5); }
            if !tcp { frame[l4_at + 4..l4_at + 6].fill(0xa5); }
            complete(&mut frame, offload);
            prop_assert_eq!(frame, expect);
        }

        #[test]
        fn no_header_panics(frame in prop::collection::vec(any::<u8>(), 0..80), ip_len in 0u16..80, v6: bool, tcp: bool) {
            let ip = if v6 { Ip::V6 } else { Ip::V4 };
            let transport = Some(if tcp { Transport::Tcp } else { Transport::Udp });
            complete(&mut frame.clone(), Offload { ip, ip_len, transport, ..Offload::UDP_V4 });
            has_port(&frame, 1);
        }
    }
}

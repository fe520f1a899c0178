//! A recording loopback: every frame goes into a pcap file and comes back.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use pcap_file::pcap::{PcapPacket, PcapWriter};

use super::{Error, Loopback, Wire};

/// A wire that writes what is sent into a file, and loops it back so that a sender can check what arrived.
///
/// Every frame reaches the file in one write(2), so the file of a killed process can be read to its end.
pub struct Pcap {
    writer: PcapWriter<WholeRecords>,
    back: Loopback,
    /// Frames that could not be written (disk full): they are looped back all the same.
    unwritten: u64,
}

/// Collects what the pcap writer gives in pieces.
struct WholeRecords {
    file: File,
    record: Vec<u8>,
    /// Bytes still missing from the record: its length is in its header, which comes first.
    missing: Option<usize>,
}

/// Bytes in the file's header and in a record's header.
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

impl Pcap {
    /// Makes the file, for this user only, or empties it if it is there.
    ///
    /// # Errors
    /// [`Error::Pcap`] when it cannot be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let error = |text: String| Error::Pcap { path: path.to_owned(), text };
        // It has the bytes of files that others may not be allowed to read. One that is there keeps its mode.
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path).map_err(|source| error(source.to_string()))?;
        let records = WholeRecords { file, record: Vec::new(), missing: Some(FILE_HEADER) };
        let writer = PcapWriter::new(records).map_err(|source| error(source.to_string()))?;
        Ok(Self { writer, back: Loopback::new(), unwritten: 0 })
    }

    /// Frames that are missing from the file because writing failed.
    pub fn unwritten(&self) -> u64 {
        self.unwritten
    }
}

impl Write for WholeRecords {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.record.extend_from_slice(bytes);
        if self.missing.is_none() && self.record.len() >= RECORD_HEADER {
            let len = u32::from_ne_bytes([self.record[8], self.record[9], self.record[10], self.record[11]]);
            self.missing = Some(RECORD_HEADER + len as usize);
        }
        if self.missing.is_some_and(|whole| self.record.len() >= whole) {
            let record = std::mem::take(&mut self.record);
            self.missing = None;
            self.file.write_all(&record)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Wire for Pcap {
    fn transmit(&mut self, frame: &[u8]) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let packet = PcapPacket::new(time, frame.len() as u32, frame);
        self.unwritten += u64::from(self.writer.write_packet(&packet).is_err());
        self.back.transmit(frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        self.back.receive(frame)
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcap::PcapReader;

    use super::*;

    #[test]
    fn the_file_is_whole_after_every_frame_and_frames_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wire.pcap");
        let mut wire = Pcap::create(&path).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "not everybody may read what was sent");
        for count in 0..4usize {
            // The wire is still open: what is in the file now is what a killed process leaves.
            let mut reader = PcapReader::new(File::open(&path).unwrap()).unwrap();
            let seen: Vec<usize> = std::iter::from_fn(|| reader.next_packet().map(|p| p.unwrap().data.len())).collect();
            assert_eq!(seen, (0..count).map(|i| 60 + i).collect::<Vec<_>>());
            wire.transmit(&vec![7; 60 + count]);
        }
        let mut frame = Vec::new();
        assert!(wire.receive(&mut frame));
        assert_eq!((frame.len(), wire.unwritten()), (60, 0));
    }
}

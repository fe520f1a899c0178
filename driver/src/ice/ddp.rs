//! The package: what the device's parser and its tables are loaded with (DDP, "dynamic device personalization"; Linux
//! `ice_ddp.c`). Without one the device is in *safe mode*: it sends and receives, and knows no protocols.
//!
//! The file is cut into segments; the E810's has buffers of 4 KiB, which go to the firmware one by one. In newer files they are
//! preceded by those of a *signing* segment, which also says where to begin. What a signature is worth the firmware decides;
//! here only the file's shape is checked, and that to the last byte: it is a file that somebody was given. Pure.

use std::ops::Range;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::{Error, Result};

/// Four bytes: major, minor, update, draft.
pub(super) type Version = [u8; 4];

/// A file that makes sense.
#[derive(Debug)]
pub(super) struct Package<'a> {
    /// Version of the package, not of the file's format.
    pub version: Version,
    /// Version of the E810's segment: it must go with the firmware's own.
    pub format: Version,
    parts: Vec<Part<'a>>,
}

/// Buffers that go to the firmware together.
#[derive(Debug)]
struct Part<'a> {
    buffers: &'a [[u8; BUFFER]],
    /// The last of them is the last of all.
    ends: bool,
}

/// A package that the device has (0x0C43).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Loaded {
    pub version: Version,
    pub name: String,
    /// It came with the firmware.
    pub built_in: bool,
    /// It is the one in force.
    pub active: bool,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct FileHead {
    format: Version,
    segments: U32,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SegmentHead {
    kind: U32,
    format: Version,
    size: U32,
    id: [u8; 32],
}

/// The head of a signing segment; a table of buffers follows.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Signing {
    /// What kind of segment is signed, and how.
    kind: U32,
    algorithm: U32,
    /// Which segment of the file, and which of its buffers.
    segment: U32,
    first: U32,
    count: U32,
    flags: U32,
    reserved: [u8; 40],
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BufferHead {
    sections: U16,
    end: U16,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Section {
    kind: U32,
    offset: U16,
    size: U16,
}

/// The metadata section of the E810's segment.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Metadata {
    version: Version,
    name: [u8; 28],
    track: U32,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ListEntry {
    version: Version,
    name: [u8; 28],
    track: U32,
    built_in: u8,
    active: u8,
    at_boot: u8,
    modified: u8,
}

impl<'a> Package<'a> {
    /// Takes a file apart.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self> {
        Self::parse_file(file).map_err(|what| Error::Package { what })
    }

    fn parse_file(file: &'a [u8]) -> std::result::Result<Self, String> {
        let (head, rest) = FileHead::ref_from_prefix(file).map_err(|_| format!("has {} bytes", file.len()))?;
        if head.format != FILE_FORMAT {
            return Err(format!("has format {}, known is {}", dotted(head.format), dotted(FILE_FORMAT)));
        }
        let count = head.segments.get();
        let (offsets, _) = <[U32]>::ref_from_prefix_with_elems(rest, count as usize)
            .map_err(|_| format!("says it has {count} segments, and has {} bytes", file.len()))?;
        let segments = offsets.iter().map(|offset| segment(file, offset.get()));
        let segments = segments.collect::<std::result::Result<Vec<_>, String>>()?;
        let found = segments.iter().find(|(head, _)| head.kind.get() == E810_SEGMENT);
        let (head, body) = found.ok_or_else(|| format!("has no segment for the E810 among {count}"))?;
        let buffers = configuration(body)?;
        let metadata = buffers.iter().try_fold(None, |found, buffer| Ok::<_, String>(found.or(metadata(buffer)?)))?;
        let metadata = metadata.ok_or("does not say which package it is (no metadata section)")?;
        if !is_known(metadata.version) {
            return Err(format!("is version {}, known is 1.3", dotted(metadata.version)));
        }
        Ok(Self { version: metadata.version, format: head.format, parts: parts(&segments, buffers)? })
    }

    /// The buffers that the firmware takes, in their order, and whether each is the last.
    pub(super) fn to_download(&self) -> impl Iterator<Item = (&'a [u8; BUFFER], bool)> {
        self.parts.iter().flat_map(|part| {
            let len = part.buffers.len();
            part.buffers.iter().enumerate().map(move |(index, buffer)| (buffer, part.ends && index + 1 == len))
        })
    }
}

/// What goes to the firmware: signatures with what they sign, or, where nothing is signed apart, all buffers.
fn parts<'a>(segments: &[Segment<'a>], buffers: &'a [[u8; BUFFER]]) -> std::result::Result<Vec<Part<'a>>, String> {
    let mut parts = Vec::new();
    for (head, body) in segments.iter().filter(|(head, _)| head.kind.get() == SIGNING_SEGMENT) {
        let (signing, table) = Signing::ref_from_prefix(body)
            .map_err(|_| format!("has a signing segment of {} bytes", head.size.get()))?;
        if signing.kind.get() != E810_SEGMENT || signing.algorithm.get() != RSA_2048 {
            continue;
        }
        parts.push(Part { buffers: buffer_table(table, 0)?, ends: false });
        let (first, count) = (signing.first.get() as usize, signing.count.get() as usize);
        let signed = segments.get(signing.segment.get() as usize);
        let Some(_) = signed.filter(|(head, _)| head.kind.get() == E810_SEGMENT) else {
            return Err(format!("has a signature of segment {}, which is none for the E810", signing.segment.get()));
        };
        let signed = first.checked_add(count).and_then(|end| buffers.get(first..end));
        let signed =
            signed.ok_or_else(|| format!("has a signature of {count} buffers from {first} of {}", buffers.len()))?;
        let flags = signing.flags.get();
        let ends = flags & SIGNING_FLAGS_VALID == 0 || flags & SIGNING_LAST != 0;
        // A signature of nothing is for other signatures to refer to.
        if count > 0 {
            parts.push(Part { buffers: for_device(signed), ends });
        }
    }
    if parts.is_empty() {
        parts.push(Part { buffers: for_device(buffers), ends: true });
    }
    Ok(parts)
}

/// Buffers up to the first that is not for the device.
fn for_device(buffers: &[[u8; BUFFER]]) -> &[[u8; BUFFER]] {
    let other = |buffer: &[u8; BUFFER]| first_section(buffer).is_some_and(|kind| kind & METADATA_BUFFER != 0);
    &buffers[..buffers.iter().position(other).unwrap_or(buffers.len())]
}

/// Reads the device's list.
pub(super) fn list(buffer: &[u8]) -> std::result::Result<Vec<Loaded>, String> {
    let (count, rest) = U32::ref_from_prefix(buffer).map_err(|_| format!("{} bytes of a list", buffer.len()))?;
    let count = count.get();
    let entries = <[ListEntry]>::ref_from_prefix_with_elems(rest, count as usize);
    let (entries, _) = entries.map_err(|_| format!("{count} packages in {} bytes", buffer.len()))?;
    let loaded = |entry: &ListEntry| Loaded {
        version: entry.version,
        name: text(&entry.name),
        built_in: entry.built_in != 0,
        active: entry.active != 0,
    };
    Ok(entries.iter().map(loaded).collect())
}

/// Whether this driver knows what a package of that version makes of the device: 1.3.
pub(super) fn is_known(version: Version) -> bool {
    version[..2] == [1, 3]
}

/// As people write a version.
pub(super) fn dotted([major, minor, update, draft]: Version) -> String {
    format!("{major}.{minor}.{update}.{draft}")
}

/// A segment's head, and what is in it.
type Segment<'a> = (&'a SegmentHead, &'a [u8]);

/// The segment at `offset`.
fn segment(file: &[u8], offset: u32) -> std::result::Result<Segment<'_>, String> {
    let outside = || format!("has a segment at {offset:#x} that reaches outside of its {} bytes", file.len());
    let rest = file.get(offset as usize..).ok_or_else(outside)?;
    let (head, body) = SegmentHead::ref_from_prefix(rest).map_err(|_| outside())?;
    let len = (head.size.get() as usize).checked_sub(size_of::<SegmentHead>()).ok_or_else(outside)?;
    Ok((head, body.get(..len).ok_or_else(outside)?))
}

/// The buffers of the E810's segment: behind a table of devices and one of NVM versions.
fn configuration(body: &[u8]) -> std::result::Result<&[[u8; BUFFER]], String> {
    let (_, at) = table(body, 0, 8, "devices")?;
    let (_, at) = table(body, at, 4, "NVM versions")?;
    buffer_table(body, at)
}

fn buffer_table(body: &[u8], at: usize) -> std::result::Result<&[[u8; BUFFER]], String> {
    let (count, end) = table(body, at, BUFFER, "buffers")?;
    if count == 0 {
        return Err("has a segment without buffers".to_owned());
    }
    let (buffers, _) = body[at + 4..end].as_chunks::<BUFFER>();
    Ok(buffers)
}

/// A count at `at` and so many entries of `size` bytes: the count, and where they end.
fn table(body: &[u8], at: usize, size: usize, what: &str) -> std::result::Result<(usize, usize), String> {
    let outside = || format!("has more {what} than its segment of {} bytes has room for", body.len());
    let count = body.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>()).ok_or_else(outside)?;
    let count = u32::from_le_bytes(*count) as usize;
    let end = count.checked_mul(size).and_then(|len| len.checked_add(at + 4)).ok_or_else(outside)?;
    if end > body.len() {
        return Err(outside());
    }
    Ok((count, end))
}

/// The metadata in a buffer, if it has some; errors when the buffer makes no sense.
fn metadata(buffer: &[u8; BUFFER]) -> std::result::Result<Option<&Metadata>, String> {
    let (head, rest) = BufferHead::ref_from_prefix(buffer).expect("a buffer is longer than its head");
    let (count, end) = (head.sections.get(), usize::from(head.end.get()));
    let senseless = || format!("has a buffer of {count} sections that end at {end:#x}");
    let (sections, _) = <[Section]>::ref_from_prefix_with_elems(rest, count.into()).map_err(|_| senseless())?;
    if sections.is_empty() || end > BUFFER {
        return Err(senseless());
    }
    for section in sections {
        let start = usize::from(section.offset.get());
        let bytes: Range<usize> = start..start + usize::from(section.size.get());
        let bytes = buffer.get(bytes).ok_or_else(senseless)?;
        if section.kind.get() == METADATA_SECTION {
            let (metadata, _) = Metadata::ref_from_prefix(bytes).map_err(|_| senseless())?;
            return Ok(Some(metadata));
        }
    }
    Ok(None)
}

fn first_section(buffer: &[u8; BUFFER]) -> Option<u32> {
    let (head, rest) = BufferHead::ref_from_prefix(buffer).ok()?;
    let (section, _) = Section::ref_from_prefix(rest).ok()?;
    (head.sections.get() > 0).then(|| section.kind.get())
}

/// Text that ends at the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Bytes of a buffer.
pub(super) const BUFFER: usize = 4096;
const FILE_FORMAT: Version = [1, 0, 0, 0];
const E810_SEGMENT: u32 = 0x10;
const SIGNING_SEGMENT: u32 = 0x1001;
/// The only signature that the E810 knows.
const RSA_2048: u32 = 1;
const SIGNING_FLAGS_VALID: u32 = 1 << 31;
const SIGNING_LAST: u32 = 1 << 0;
/// In the kind of a buffer's first section: it is not for the device, and none behind it is.
const METADATA_BUFFER: u32 = 1 << 31;
const METADATA_SECTION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffer(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; BUFFER];
        bytes[0] = 1;
        bytes[2..4].copy_from_slice(&(12 + body.len() as u16).to_le_bytes());
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..10].copy_from_slice(&12u16.to_le_bytes());
        bytes[10..12].copy_from_slice(&(body.len() as u16).to_le_bytes());
        bytes[12..12 + body.len()].copy_from_slice(body);
        bytes
    }

    fn segment(kind: u32, body: &[u8]) -> Vec<u8> {
        let size = 44 + body.len() as u32;
        [&kind.to_le_bytes()[..], &[1, 3, 0, 0], &size.to_le_bytes(), &[0; 32], body].concat()
    }

    fn whole(segments: &[Vec<u8>]) -> Vec<u8> {
        let mut file = [&[1, 0, 0, 0][..], &(segments.len() as u32).to_le_bytes()].concat();
        let mut at = 8 + 4 * segments.len();
        for segment in segments {
            file.extend((at as u32).to_le_bytes());
            at += segment.len();
        }
        [file, segments.concat()].concat()
    }

    fn configuration(version: Version) -> Vec<u8> {
        let metadata = [&version[..], b"a test package", &[0; 18]].concat();
        let buffers =
            [buffer(10, &[1; 100]), buffer(11, &[2; 50]), buffer(METADATA_BUFFER | 1, &[]), buffer(1, &metadata)];
        let tables = [&[1, 0, 0, 0][..], &[7; 8], &[2, 0, 0, 0], &[8; 8], &[4, 0, 0, 0], &buffers.concat()].concat();
        segment(0x10, &tables)
    }

    fn file(version: Version) -> Vec<u8> {
        whole(&[segment(1, &[]), configuration(version)])
    }

    /// A signature in one buffer, of `count` buffers from `first` on of segment `of`.
    fn signing(of: u32, first: u32, count: u32) -> Vec<u8> {
        let words = [0x10, 1, of, first, count, 1 << 31 | 1].map(u32::to_le_bytes).concat();
        segment(0x1001, &[&words[..], &[0; 40], &[1, 0, 0, 0], &buffer(20, &[3; 9])].concat())
    }

    fn why(file: &[u8]) -> String {
        Package::parse(file).unwrap_err().to_string()
    }

    #[test]
    fn a_package_is_read() {
        let file = file([1, 3, 59, 0]);
        let package = Package::parse(&file).unwrap();
        assert_eq!((package.version, package.format), ([1, 3, 59, 0], [1, 3, 0, 0]));
        let download: Vec<_> = package.to_download().map(|(buffer, last)| (buffer[4], last)).collect();
        assert_eq!(download, [(10, false), (11, true)], "up to the metadata");
    }

    #[test]
    fn a_signature_goes_before_what_it_signs() {
        let kinds = |file: &[u8]| -> Vec<_> {
            let package = Package::parse(file).unwrap();
            package.to_download().map(|(buffer, last)| (buffer[4], last)).collect()
        };
        let signed = |signature| whole(&[signature, configuration([1, 3, 0, 0])]);
        assert_eq!(kinds(&signed(signing(1, 1, 3))), [(20, false), (11, true)]);
        assert_eq!(kinds(&signed(signing(1, 0, 0))), [(20, false)], "a signature of nothing");
        assert!(why(&signed(signing(0, 0, 1))).contains("signature of segment 0, which is none"));
        assert!(why(&signed(signing(1, 3, 2))).contains("2 buffers from 3 of 4"));
        assert!(why(&signed(signing(1, u32::MAX, u32::MAX))).contains("signature of 4294967295 buffers"));
    }

    #[test]
    fn files_that_make_no_sense_say_why() {
        let good = file([1, 3, 59, 0]);
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            why(&bad)
        };
        assert!(why(&[]).contains("has 0 bytes"));
        assert!(with(0, 2).contains("format 2.0.0.0"));
        assert!(with(7, 1).contains("16777218 segments"));
        assert!(with(10, 1).contains("reaches outside"));
        assert!(with(60, 0x17).contains("no segment for the E810"));
        assert!(with(60 + 10, 1).contains("reaches outside"));
        assert!(with(60 + 44, 0xff).contains("without buffers"), "tables read from where none is");
        assert!(with(60 + 44 + 3, 0xff).contains("more devices"));
        assert!(why(&file([1, 4, 0, 0])).contains("version 1.4.0.0, known is 1.3"));
        assert!(why(&good[..good.len() - 1]).contains("reaches outside"));
    }

    #[test]
    fn lists_are_read() {
        let entry = [&[1, 3, 59, 0][..], b"OS default", &[0; 18], &[0; 4], &[0, 1, 1, 0]].concat();
        let buffer = [&[1, 0, 0, 0][..], &entry].concat();
        let loaded = Loaded { version: [1, 3, 59, 0], name: "OS default".into(), built_in: false, active: true };
        assert_eq!(list(&buffer), Ok(vec![loaded]));
        assert!(list(&buffer[..43]).unwrap_err().contains("1 packages in 43 bytes"));
    }

    proptest! {
        /// No file panics; one that is changed somewhere is a package or an error.
        #[test]
        fn any_file_is_survived(rubbish in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..17_000, byte: u8) {
            let _ = (Package::parse(&rubbish).is_ok(), list(&rubbish).is_ok());
            let mut changed = file([1, 3, 0, 0]);
            let at = at % changed.len();
            changed[at] = byte;
            if let Ok(package) = Package::parse(&changed) {
                prop_assert!(package.to_download().count() <= 4);
            }
        }
    }
}

//! What is timed, and nothing else: one function a work, for one burst.
//!
//! None of them is inlined, and all have `timed_` in their names, so that instructions can be counted as well:
//!
//! ```sh
//! echo "run tx-page frames=2048" | valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*timed_*' ours
//! ```

use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use stillwire_driver::{Checksum, Frame, Offload, Posted, Result, RxQueue, TxQueue};
use stillwire_examples::packet::{UDP_HEADERS, UdpTemplate};
use stillwire_examples::sending::HEADERS;
use stillwire_examples::transfer::{DATA_HEADER_LEN, Header};
use stillwire_filecache::{CachedFile, Hold};

use crate::TCP_HEADERS;

/// The frames of one burst: where in the file they lie.
#[derive(Clone, Debug)]
pub struct Burst {
    /// Bytes of the file, as many as the frames have together.
    pub bytes: Range<u64>,
    /// File bytes in each frame.
    pub payload: usize,
}

/// One hold covers at most so much of the file, bytes: as the example's sender takes it.
pub const RUN: usize = 64 << 10;

impl Burst {
    /// The runs that it is held in: whole frames, at most [`RUN`] bytes each.
    fn runs(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let (end, whole) = (self.bytes.end, (RUN / self.payload).max(1) * self.payload);
        self.bytes.clone().step_by(whole).map(move |start| start..end.min(start + whole as u64))
    }

    /// The runs that the NIC is given to cut: [`RUN`] bytes each, of which the last frame may have fewer than the others.
    fn cut(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let end = self.bytes.end;
        self.bytes.clone().step_by(RUN).map(move |start| start..end.min(start + RUN as u64))
    }
}

/// Reclaims, and sends `frames` frames that are all header. `false` when the ring was full.
///
/// # Errors
/// What the driver says.
#[inline(never)]
pub fn timed_tx60(tx: &mut TxQueue<Hold>, frame: &[u8; 60], frames: usize) -> Result<bool> {
    tx.reclaim(drop);
    for _ in 0..frames {
        let Posted::Queued = tx.post(Frame::new(frame))? else { return Ok(false) };
    }
    tx.publish();
    Ok(true)
}

/// Reclaims, and sends a burst of file bytes behind a TCP header, a hold a run.
///
/// # Errors
/// What the driver or the cache says.
#[inline(never)]
pub fn timed_tx_page(
    tx: &mut TxQueue<Hold>,
    file: &CachedFile,
    header: &[u8; TCP_HEADERS],
    burst: &Burst,
) -> super::Result<bool> {
    tx.reclaim(drop);
    for bytes in burst.runs() {
        let len = (bytes.end - bytes.start) as usize;
        let mut run = tx.run(file.hold(bytes)?);
        for start in (0..len).step_by(burst.payload) {
            if !run.post(header, Some(Offload::TCP_V4), start..start + burst.payload)? {
                return Ok(false);
            }
        }
    }
    tx.publish();
    Ok(true)
}

/// The same with a hold a frame.
///
/// # Errors
/// As [`timed_tx_page`].
#[inline(never)]
pub fn timed_tx_page_each(
    tx: &mut TxQueue<Hold>,
    file: &CachedFile,
    header: &[u8; TCP_HEADERS],
    burst: &Burst,
) -> super::Result<bool> {
    tx.reclaim(drop);
    for start in burst.bytes.clone().step_by(burst.payload) {
        let hold = file.hold(start..start + burst.payload as u64)?;
        let frame = Frame::new(header).offload(Offload::TCP_V4).payload(hold);
        let Posted::Queued = tx.post(frame)? else { return Ok(false) };
    }
    tx.publish();
    Ok(true)
}

/// What a file sender does with a burst: headers come from a template.
///
/// # Errors
/// As [`timed_tx_page`].
#[inline(never)]
pub fn timed_sender(
    tx: &mut TxQueue<Hold>,
    file: &CachedFile,
    headers: &mut UdpTemplate,
    burst: &Burst,
) -> super::Result<bool> {
    tx.reclaim(drop);
    for bytes in burst.runs() {
        let len = (bytes.end - bytes.start) as usize;
        let mut run = tx.run(file.hold(bytes)?);
        for start in (0..len).step_by(burst.payload) {
            let header = headers.next(burst.payload);
            if !run.post(header, Some(Offload::UDP_V4), start..start + burst.payload)? {
                return Ok(false);
            }
        }
    }
    tx.publish();
    Ok(true)
}

/// The same with the header of the transfer protocol, which has a digest of the frame's bytes.
///
/// # Errors
/// As [`timed_tx_page`].
#[inline(never)]
pub fn timed_sender_digest(
    tx: &mut TxQueue<Hold>,
    file: &CachedFile,
    headers: &mut UdpTemplate,
    burst: &Burst,
) -> super::Result<bool> {
    tx.reclaim(drop);
    for bytes in burst.runs() {
        let (begin, len) = (bytes.start, (bytes.end - bytes.start) as usize);
        let mut run = tx.run(file.hold(bytes)?);
        for start in (0..len).step_by(burst.payload) {
            let part = start..start + burst.payload;
            let crc32 = run.payload().crc32_range(part.clone());
            let offset = begin + start as u64;
            let data = Header::data(TRANSFER, file.len(), offset, burst.payload as u32, crc32);
            let mut header = [0; HEADERS];
            header[..UDP_HEADERS].copy_from_slice(headers.next(DATA_HEADER_LEN + burst.payload));
            data.emit(&mut header[UDP_HEADERS..]);
            if !run.post(&header, Some(Offload::UDP_V4), part)? {
                return Ok(false);
            }
        }
    }
    tx.publish();
    Ok(true)
}

/// The same as [`timed_sender`], but the NIC cuts each run into frames: one post a run.
///
/// # Errors
/// As [`timed_tx_page`].
#[inline(never)]
pub fn timed_sender_segmented(
    tx: &mut TxQueue<Hold>,
    file: &CachedFile,
    headers: &mut UdpTemplate,
    burst: &Burst,
) -> super::Result<bool> {
    tx.reclaim(drop);
    for bytes in burst.cut() {
        let offload = Offload::UDP_V4.segmented(burst.payload as u16);
        let frame = Frame::new(headers.next(burst.payload)).offload(offload).payload(file.hold(bytes)?);
        let Posted::Queued = tx.post(frame)? else { return Ok(false) };
    }
    tx.publish();
    Ok(true)
}

/// Takes up to `frames` frames that have arrived and gives their buffers back; returns how many there were, and their
/// bytes.
#[inline(never)]
pub fn timed_rx60(rx: &mut RxQueue, frames: usize) -> (usize, usize) {
    let mut bytes = 0;
    let taken = rx.poll(frames, |frame| {
        // What a receiver looks at first: whether it is worth more, its length, and the type in its Ethernet header.
        if frame.checksum().ip != Checksum::Bad
            && let Some(ethernet) = frame.first::<16>()
        {
            black_box(u16::from_be_bytes([ethernet[12], ethernet[13]]));
            bytes += frame.len();
        }
    });
    (taken, bytes)
}

/// Holds and releases the same clean page `times` times.
///
/// # Errors
/// What the cache says.
#[inline(never)]
pub fn timed_hold(file: &CachedFile, times: usize) -> super::Result<()> {
    for _ in 0..times {
        drop(black_box(file.hold(black_box(0..4096))?));
    }
    Ok(())
}

/// Holds and releases the same 64 KiB `times` times.
///
/// # Errors
/// What the cache says.
#[inline(never)]
pub fn timed_hold_run(file: &CachedFile, times: usize) -> super::Result<()> {
    for _ in 0..times {
        drop(black_box(file.hold(black_box(0..RUN as u64))?));
    }
    Ok(())
}

/// Adds to a word and takes away from it, `times` times: what a hold costs at the least.
#[inline(never)]
pub fn timed_atomics(word: &AtomicU64, times: usize) {
    for _ in 0..times {
        black_box(word).fetch_add(1, Ordering::Acquire);
        black_box(word).fetch_sub(1, Ordering::Release);
    }
}

/// The number of the transfer that is never ended.
const TRANSFER: u64 = 1;

//! The wire, and who is at its other end: looks at every frame as it leaves the NIC, loses some, and answers the others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stillwire_emulator::wire::Wire;
use stillwire_scheduler::{chance, choose, failed, log};

use super::ledger;

/// The NIC's end of it; clones are the same.
#[derive(Clone)]
pub struct Ether(Arc<Mutex<Far>>);

struct Far {
    /// Of a thousand frames, how many come to harm.
    harm: u64,
    /// Whether what leaves the NIC must be what was handed to it.
    believes: bool,
    /// On the way to the far end.
    there: VecDeque<Vec<u8>>,
    /// And back.
    back: VecDeque<Vec<u8>>,
}

impl Ether {
    /// One that harms so many of a thousand frames. `believes`: the device is honest.
    pub fn new(harm: u64, believes: bool) -> Self {
        Self(Arc::new(Mutex::new(Far { harm, believes, there: VecDeque::new(), back: VecDeque::new() })))
    }

    fn far(&self) -> MutexGuard<'_, Far> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire for Ether {
    fn transmit(&mut self, frame: &[u8]) {
        let mut far = self.far();
        ledger::count(|counts| counts.frames += 1);
        let header = Header::parse(frame);
        let digest = header.as_ref().and_then(|header| Some(crc32fast::hash(header.payload(frame)?)));
        if far.believes {
            match (&header, digest) {
                (Some(header), Some(digest)) if header.crc == digest => {}
                (Some(header), _) => {
                    let (number, len) = (header.number, header.len);
                    failed(format!("frame {number} of {len} bytes left with other bytes than were held"));
                }
                (None, _) => failed("a frame left that nobody had posted".into()),
            }
        }
        log(|| format!("wire: {:?}", header.as_ref().map(|header| header.number)));
        let mut frame = frame.to_vec();
        let kinds = if chance(far.harm) { choose(4) as usize } else { 4 };
        if let Some(name) = HARM.get(kinds) {
            ledger::harm(name);
        }
        match kinds {
            0 => return,
            1 => far.there.push_back(frame.clone()),
            2 => {
                let at = choose(frame.len() as u64) as usize;
                frame[at] ^= 1 << choose(8);
            }
            3 => {
                far.there.push_front(frame);
                return;
            }
            _ => {}
        }
        far.there.push_back(frame);
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> bool {
        let mut far = self.far();
        while let Some(arrived) = far.there.pop_front() {
            // Damaged ones are dropped, as by any receiver.
            let Some(header) = Header::parse(&arrived) else { continue };
            let whole = header.payload(&arrived).is_some_and(|payload| crc32fast::hash(payload) == header.crc);
            if whole {
                ledger::count(|counts| counts.delivered += 1);
                let mut answer = header.answer().encode().to_vec();
                answer.resize(60 + choose(100) as usize, 0);
                if chance(far.harm) {
                    ledger::harm(HARM[0]);
                } else {
                    far.back.push_back(answer);
                }
            }
        }
        // Not always at once.
        if chance(300) {
            return false;
        }
        match far.back.pop_front() {
            Some(answer) => {
                *frame = answer;
                true
            }
            None => false,
        }
    }
}

/// What precedes the bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// It is one that was received.
    pub is_answer: bool,
    /// Which frame it is.
    pub number: u64,
    /// Bytes that follow.
    pub len: u32,
    /// Their CRC-32, as they were when they were held.
    pub crc: u32,
}

impl Header {
    /// As bytes, with an Ethernet header before.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0xff; HEADER];
        bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
        bytes[14..18].copy_from_slice(if self.is_answer { b"answ" } else { b"file" });
        bytes[18..26].copy_from_slice(&self.number.to_be_bytes());
        bytes[26..30].copy_from_slice(&self.len.to_be_bytes());
        bytes[30..34].copy_from_slice(&self.crc.to_be_bytes());
        let check = crc32fast::hash(&bytes[14..34]).to_be_bytes();
        bytes[34..38].copy_from_slice(&check);
        bytes
    }

    /// Of a frame that has one.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = frame.get(..HEADER)?.try_into().ok()?;
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let is_ours = bytes[12..14] == [0x88, 0xb5] && word(34) == crc32fast::hash(&bytes[14..34]);
        is_ours.then(|| Self {
            is_answer: bytes[14..18] == *b"answ",
            number: u64::from(word(18)) << 32 | u64::from(word(22)),
            len: word(26),
            crc: word(30),
        })
    }

    fn payload<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        frame.get(HEADER..HEADER + self.len as usize)
    }

    fn answer(&self) -> Self {
        Self { is_answer: true, ..self.clone() }
    }
}

/// What comes to a frame on the wire.
const HARM: [&str; 4] = [
    "a frame is lost on the wire",
    "a frame is doubled on the wire",
    "a frame is damaged on the wire",
    "a frame overtakes others",
];

/// Its length, bytes.
pub const HEADER: usize = 38;

//! The admin queues: commands to the firmware, and its events (Linux `ice_controlq.c`).
//!
//! One command is under way at a time. Whatever the firmware writes back is checked against what was asked; a queue on which
//! a command was not answered is not used again, for the firmware may still be about to write into its buffer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stillwire_dma::{Access, HugePages, Mapping, PciFunction, SharedMemory, fence};

use super::commands::{Op, QUEUE_SHUTDOWN, meaning};
use super::regs::*;
use crate::registers::{Reg, Registers};
use crate::{Error, Result};

/// Both queues with their memory.
pub(super) struct AdminQueue {
    regs: Registers,
    name: String,
    memory: SharedMemory,
    /// Shared with nobody but a leaked clone, if the device cannot be proved quiet.
    mapping: Arc<Mapping>,
    /// Commands sent and events taken; counted for ever.
    sent: u64,
    taken: u64,
    /// Nothing may be sent any more.
    dead: bool,
    /// How long an answer is waited for.
    pub deadline: Duration,
}

/// A command as it is asked: 16 bytes of parameters, and bytes for the firmware or room for its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub op: Op,
    pub params: [u8; 16],
    pub give: &'a [u8],
    /// Bytes of the buffer, if that is more than is given.
    pub room: usize,
}

impl<'a> Request<'a> {
    /// A command without a buffer.
    pub(super) fn new(op: Op) -> Self {
        Self { op, params: [0; 16], give: &[], room: 0 }
    }

    /// Puts `bytes` into the parameters.
    pub(super) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.params[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Gives the firmware a buffer to read; what it writes over it comes back.
    pub(super) fn giving(mut self, bytes: &'a [u8]) -> Self {
        self.give = bytes;
        self
    }

    /// Gives the firmware a buffer of `bytes` to write.
    pub(super) fn asking(mut self, bytes: usize) -> Self {
        self.room = bytes;
        self
    }

    fn buffer_len(&self) -> usize {
        self.give.len().max(self.room)
    }
}

/// What the firmware answered.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// 0, or what went wrong.
    pub code: u8,
    pub params: [u8; 16],
    /// What is in the buffer: never more than there was room.
    pub buffer: Vec<u8>,
}

impl Answer {
    /// 16 bits of the parameters.
    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.params[at], self.params[at + 1]])
    }

    /// 32 bits of the parameters.
    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }
}

/// Something that the firmware tells by itself.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub opcode: u16,
    pub buffer: Vec<u8>,
}

/// A descriptor of either queue: four little-endian words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Descriptor {
    flags: u16,
    opcode: u16,
    len: u16,
    code: u16,
    params: [u8; 16],
}

impl Descriptor {
    /// The descriptor of a command whose buffer, if it has one, lies at `buffer`.
    fn of(request: &Request<'_>, buffer: u64) -> Self {
        let len = request.buffer_len();
        let mut descriptor =
            Self { flags: SI, opcode: request.op.code, len: len as u16, code: 0, params: request.params };
        if len > 0 {
            descriptor.flags |= BUF;
            descriptor.flags |= if request.give.is_empty() { 0 } else { RD };
            descriptor.set_buffer(buffer, len);
        }
        descriptor
    }

    /// The descriptor of a buffer for an event.
    fn for_event(buffer: u64) -> Self {
        let mut descriptor = Self { flags: BUF, opcode: 0, len: BUFFER as u16, code: 0, params: [0; 16] };
        descriptor.set_buffer(buffer, BUFFER);
        descriptor
    }

    fn set_buffer(&mut self, buffer: u64, len: usize) {
        self.flags |= if len > LARGE { LB } else { 0 };
        // High half first.
        self.params[8..].copy_from_slice(&buffer.rotate_left(32).to_le_bytes());
    }

    fn encode(self) -> [u64; 4] {
        let head = u64::from(self.flags)
            | u64::from(self.opcode) << 16
            | u64::from(self.len) << 32
            | u64::from(self.code) << 48;
        let (words, _) = self.params.as_chunks::<8>();
        // The second word is a cookie, which the firmware gives back and nobody here needs.
        [head, 0, u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
    }

    fn decode([head, _, low, high]: [u64; 4]) -> Self {
        let mut params = [0; 16];
        params[..8].copy_from_slice(&low.to_le_bytes());
        params[8..].copy_from_slice(&high.to_le_bytes());
        let [flags, opcode, len, code] = [0, 16, 32, 48].map(|shift| (head >> shift) as u16);
        Self { flags, opcode, len, code, params }
    }
}

impl AdminQueue {
    /// Memory for both queues, which the device does not know yet.
    pub(super) fn new(pci: &PciFunction, regs: &Registers) -> Result<Self> {
        let memory = pci.iommu().memory("stillwire-adminq", EVENT_BUFFERS + EVENTS * BUFFER, HugePages::Never)?;
        let mapping = Arc::new(pci.iommu().map(&memory, Access::ReadWrite)?);
        let (regs, name) = (regs.clone(), pci.name());
        Ok(Self { regs, name, memory, mapping, sent: 0, taken: 0, dead: true, deadline: DEADLINE })
    }

    /// Starts both queues. The function must have been reset, and be allowed to start DMA.
    pub(super) fn start(&mut self) -> Result<()> {
        (0..EVENTS).for_each(|event| self.arm(event));
        let send = [PF_FW_ATQH, PF_FW_ATQT, PF_FW_ATQLEN, PF_FW_ATQBAL, PF_FW_ATQBAH];
        let receive = [PF_FW_ARQH, PF_FW_ARQT, PF_FW_ARQLEN, PF_FW_ARQBAL, PF_FW_ARQBAH];
        self.enable(send, COMMANDS, SEND_RING)?;
        self.enable(receive, EVENTS, EVENT_RING)?;
        fence::release_to_device();
        self.regs.write(PF_FW_ARQT, EVENTS as u32 - 1);
        self.dead = false;
        Ok(())
    }

    fn enable(&self, [head, tail, len, low, high]: [Reg; 5], count: usize, ring: usize) -> Result<()> {
        let base = self.iova(ring);
        self.regs.write(head, 0);
        self.regs.write(tail, 0);
        self.regs.write(len, count as u32 | ATQLEN_ENABLE);
        self.regs.write(low, base as u32);
        self.regs.write(high, (base >> 32) as u32);
        // What was written must be there: a function in reset keeps nothing.
        self.regs.wait(low, u32::MAX, base as u32, Duration::from_millis(10))
    }

    /// The device's time.
    pub(super) fn now(&self) -> Duration {
        self.regs.now()
    }

    /// Lets time pass for the device.
    pub(super) fn sleep(&self, time: Duration) {
        self.regs.sleep(time);
    }

    /// Gives a command; errors unless the firmware does it.
    pub(super) fn ask(&mut self, request: Request<'_>) -> Result<Answer> {
        let answer = self.send(request)?;
        match answer.code {
            0 => Ok(answer),
            code => Err(self.refused(request.op, code)),
        }
    }

    /// The error of a command that was answered with `code`.
    pub(super) fn refused(&self, op: Op, code: u8) -> Error {
        let why = format!("refused it ({:#06x}) with code {code}: {}", op.code, meaning(code));
        Error::Command { name: self.name.clone(), command: op.name, why }
    }

    /// The error of a command whose answer makes no sense.
    pub(super) fn senseless(&self, op: Op, what: impl std::fmt::Display) -> Error {
        let what = format!("answer to {} ({:#06x}): {what}", op.name, op.code);
        Error::Protocol { name: self.name.clone(), what }
    }

    /// Gives a command and waits for the answer, whatever it is.
    pub(super) fn send(&mut self, request: Request<'_>) -> Result<Answer> {
        let op = request.op;
        assert!(request.buffer_len() <= BUFFER, "{}: a buffer of {} bytes", op.name, request.buffer_len());
        if self.dead {
            return Err(self.unanswered(
                op,
                Duration::ZERO,
                "the queue is off, or an earlier command was not answered".into(),
            ));
        }
        self.memory.write_at(SEND_BUFFER, request.give);
        // What an earlier command left there is not for this one.
        self.memory.write_at(SEND_BUFFER + request.give.len(), &vec![0; request.buffer_len() - request.give.len()]);
        let at = SEND_RING + self.sent as usize % COMMANDS * DESCRIPTOR;
        self.put(at, Descriptor::of(&request, self.iova(SEND_BUFFER)));
        self.sent += 1;
        let tail = (self.sent % COMMANDS as u64) as u32;
        fence::release_to_device();
        self.regs.write(PF_FW_ATQT, tail);
        if let Err(error) = self.regs.wait(PF_FW_ATQH, INDEX, tail, self.deadline) {
            self.dead = true;
            return Err(match error {
                Error::Timeout { found, waited, .. } => {
                    let errors = self.regs.read(PF_FW_ATQLEN) & ATQLEN_ERRORS;
                    self.unanswered(op, waited, format!("head {found:#x}, tail {tail:#x}, errors {errors:#010x}"))
                }
                other => other,
            });
        }
        fence::acquire_from_device();
        let found = self.take(at);
        self.believe(&request, found).inspect_err(|_| self.dead = true)
    }

    /// Checks what was written back against what was asked.
    fn believe(&self, request: &Request<'_>, found: Descriptor) -> Result<Answer> {
        let (op, room) = (request.op, request.buffer_len());
        if found.flags & DD == 0 {
            return Err(self.senseless(op, format!("the descriptor is passed, and not done ({:#06x})", found.flags)));
        }
        if found.opcode != op.code {
            return Err(self.senseless(op, format!("it is one to {:#06x}", found.opcode)));
        }
        let len = if room == 0 { 0 } else { usize::from(found.len) };
        if len > room {
            return Err(self.senseless(op, format!("it has {len} bytes, the buffer has room for {room}")));
        }
        let mut buffer = vec![0; len];
        self.memory.read_at(SEND_BUFFER, &mut buffer);
        Ok(Answer { code: found.code as u8, params: found.params, buffer })
    }

    /// What the firmware has told since the last look: a ring's worth at most.
    pub(super) fn events(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        if self.dead {
            return Ok(events);
        }
        let head = self.regs.read(PF_FW_ARQH);
        if head == u32::MAX {
            self.regs.alive()?;
        }
        let head = (head & INDEX) as usize;
        if head >= EVENTS {
            self.dead = true;
            let what = format!("the head of its events is {head} in a ring of {EVENTS}");
            return Err(Error::Protocol { name: self.name.clone(), what });
        }
        fence::acquire_from_device();
        while self.taken as usize % EVENTS != head {
            let slot = self.taken as usize % EVENTS;
            let found = self.take(EVENT_RING + slot * DESCRIPTOR);
            let mut buffer = vec![0; usize::from(found.len).min(BUFFER)];
            self.memory.read_at(EVENT_BUFFERS + slot * BUFFER, &mut buffer);
            if found.flags & (DD | ERR) == DD {
                events.push(Event { opcode: found.opcode, buffer });
            }
            self.arm(slot);
            self.taken += 1;
            fence::release_to_device();
            self.regs.write(PF_FW_ARQT, slot as u32);
        }
        Ok(events)
    }

    /// Tells the firmware that the driver leaves, and switches both queues off. What fails here is made up for by the reset
    /// that follows.
    pub(super) fn shut_down(&mut self) {
        let _ = self.send(Request::new(QUEUE_SHUTDOWN).with(0, &[1]));
        self.dead = true;
        self.regs.write(PF_FW_ATQLEN, 0);
        self.regs.write(PF_FW_ARQLEN, 0);
    }

    /// Neither the memory nor its device addresses are ever given back.
    pub(super) fn keep_mapped(&self) {
        std::mem::forget(self.mapping.clone());
    }

    fn unanswered(&self, op: Op, waited: Duration, why: String) -> Error {
        let why = format!("did not answer ({:#06x}) for {waited:?}: {why}", op.code);
        Error::Command { name: self.name.clone(), command: op.name, why }
    }

    /// Gives an event buffer to the firmware; it is seen at the next tail.
    fn arm(&self, slot: usize) {
        let buffer = self.iova(EVENT_BUFFERS + slot * BUFFER);
        self.put(EVENT_RING + slot * DESCRIPTOR, Descriptor::for_event(buffer));
    }

    fn iova(&self, offset: usize) -> u64 {
        self.mapping.iova_of(offset).expect("all of it is mapped").get()
    }

    fn put(&self, at: usize, descriptor: Descriptor) {
        for (word, value) in self.memory.words(at, 4).iter().zip(descriptor.encode()) {
            word.store(value.to_le(), Ordering::Relaxed);
        }
    }

    fn take(&self, at: usize) -> Descriptor {
        let words = self.memory.words(at, 4);
        Descriptor::decode(std::array::from_fn(|word| u64::from_le(words[word].load(Ordering::Acquire))))
    }
}

// Flags of a descriptor.
const DD: u16 = 1 << 0;
const ERR: u16 = 1 << 2;
/// The buffer is larger than 512 bytes.
const LB: u16 = 1 << 9;
/// The firmware is to read the buffer.
const RD: u16 = 1 << 10;
const BUF: u16 = 1 << 12;
/// No interrupt.
const SI: u16 = 1 << 13;
const LARGE: usize = 512;

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 32;
/// Descriptors of the send ring and the receive ring.
const COMMANDS: usize = 32;
const EVENTS: usize = 16;
/// Bytes of a buffer: no command has a larger one.
pub(super) const BUFFER: usize = 4096;
// Where the parts lie in memory, bytes.
const SEND_RING: usize = 0;
const EVENT_RING: usize = 4096;
const SEND_BUFFER: usize = 8192;
const EVENT_BUFFERS: usize = 12_288;
/// Linux and DPDK wait for a second.
const DEADLINE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::super::commands::{GET_VERSION, PHY_CAPS, SET_PHY};
    use super::*;
    use proptest::prelude::*;

    /// Goldens worked out by hand.
    #[test]
    fn descriptors_of_commands() {
        let direct = Descriptor::of(&Request::new(GET_VERSION).with(1, &[7]), 0x1234).encode();
        assert_eq!(direct, [0x0001_2000, 0, 7 << 8, 0], "no buffer, so no address");
        let reading = Descriptor::of(&Request::new(PHY_CAPS).asking(560), 0x11_2233_4455).encode();
        assert_eq!(reading[0], 0x3200 | 0x0600 << 16 | 560 << 32, "BUF, LB for more than 512 bytes, SI");
        assert_eq!(reading[3], 0x2233_4455_0000_0011, "the high half of the address lies first");
        let writing = Descriptor::of(&Request::new(SET_PHY).giving(&[0; 24]), 0x1000).encode();
        assert_eq!(writing[0], 0x3400 | 0x0601 << 16 | 24 << 32, "BUF, RD, SI");
        let event = Descriptor::for_event(0x1000).encode();
        assert_eq!(event[0], 0x1200 | 4096 << 32, "BUF, LB");
    }

    proptest! {
        #[test]
        fn descriptors_come_back(flags: u16, opcode: u16, len: u16, code: u16, params: [u8; 16]) {
            let descriptor = Descriptor { flags, opcode, len, code, params };
            prop_assert_eq!(Descriptor::decode(descriptor.encode()), descriptor);
        }
    }
}

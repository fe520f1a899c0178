//! The admin queue: how commands come in, and how answers and events go out.
//!
//! A ring is looked at after its tail was written, not before: drivers write length, base and head in any order. An answer is
//! whole in memory, with its done bit last, before the head moves, for some drivers look at the one and some at the other.

use super::command::{Answer, Command, LEN, Refusal, flags};
use super::regs::{self, control_queue as cq};
use super::{Model, commands};
use crate::bus::BusFault;

/// Events that wait for a descriptor; more are lost.
const EVENTS: usize = 16;
/// Largest buffer, bytes.
const LARGEST: usize = 4096;
/// A buffer is "large" beyond this, bytes.
const SMALL: usize = 512;

/// Something that firmware tells by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Event {
    pub(super) opcode: u16,
    pub(super) params: [u8; 16],
    pub(super) data: Vec<u8>,
}

/// A control queue's ring, as its registers say now.
struct Ring {
    base: u64,
    count: u32,
    head: u32,
    tail: u32,
}

/// A descriptor as the driver wrote it.
struct Asked {
    at: u64,
    flags: u16,
    /// Of the buffer, bytes.
    len: u16,
    params: [u8; 16],
}

impl Model {
    /// Answers what was asked and tells what there is to tell; false when there was nothing to do.
    pub(super) fn serve_adminq(&mut self) -> bool {
        let mut busy = false;
        while self.adminq_rung && !self.faults.silent_adminq {
            let Some(ring) = self.control_ring(regs::PF_FW_ATQ) else {
                self.adminq_rung = !self.bus.open;
                break;
            };
            match self.answer(&ring) {
                Ok(true) => busy = true,
                Ok(false) => break,
                Err(_) => self.break_control_queue(regs::PF_FW_ATQ, "bus fault on the admin send queue"),
            }
        }
        while let Some(ring) = self.control_ring(regs::PF_FW_ARQ).filter(|_| !self.events.is_empty()) {
            let Some(event) = self.events.pop_front() else { break };
            busy = true;
            if self.tell(&ring, &event).is_err() {
                self.break_control_queue(regs::PF_FW_ARQ, "bus fault on the admin receive queue");
            }
        }
        busy
    }

    /// The ring, if it is enabled and has descriptors for the device.
    fn control_ring(&mut self, first: u32) -> Option<Ring> {
        let length = self.regs.get(first + cq::LEN);
        if length & regs::CQ_ENABLE == 0 || length & regs::CQ_CRITICAL != 0 || !self.bus.open {
            return None;
        }
        let get = |register: u32| self.regs.get(first + register);
        let base = u64::from(get(cq::BAH)) << 32 | u64::from(get(cq::BAL));
        let (count, head, tail) = (length & regs::CQ_COUNT, get(cq::HEAD), get(cq::TAIL));
        if head == tail {
            return None;
        }
        let end = base.checked_add(LEN * u64::from(count));
        if head >= count || tail >= count || !base.is_multiple_of(LEN) || end.is_none() {
            self.break_control_queue(first, "an admin queue whose head or tail lies beyond it, or that lies askew");
            return None;
        }
        Some(Ring { base, count, head, tail })
    }

    fn break_control_queue(&mut self, first: u32, why: &'static str) {
        let length = self.regs.get(first + cq::LEN);
        self.regs.set(first + cq::LEN, length | regs::CQ_CRITICAL);
        self.note_halt(format!("admin queue at {first:#x}: {why}"), why);
    }

    fn advance(&mut self, first: u32, ring: &Ring) {
        let next = if ring.head + 1 >= ring.count { 0 } else { ring.head + 1 };
        self.regs.set(first + cq::HEAD, next);
    }

    /// Takes one command; false when its answer has to wait.
    fn answer(&mut self, ring: &Ring) -> Result<bool, BusFault> {
        let (asked, mut command) = self.fetch_command(ring)?;
        let outcome = self.execute(&mut command);
        if outcome == Err(Refusal::Later) {
            return Ok(false);
        }
        self.note_command(command.opcode, outcome.is_ok());
        if self.faults.garbage_adminq {
            self.write_garbage(&asked, command.room)?;
        } else {
            self.write_answer(&asked, &command, outcome)?;
        }
        self.advance(regs::PF_FW_ATQ, ring);
        Ok(true)
    }

    fn fetch_command(&mut self, ring: &Ring) -> Result<(Asked, Command), BusFault> {
        debug_assert_ne!(ring.head, ring.tail);
        let at = ring.base + LEN * u64::from(ring.head);
        let mut bytes = [0; LEN as usize];
        self.bus.read(at, &mut bytes)?;
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut params = [0; 16];
        params.copy_from_slice(&bytes[16..]);
        let asked = Asked { at, flags: word(0), len: word(4), params };
        let mut command = Command { opcode: word(2), params, ..Command::default() };
        if asked.flags & flags::BUF != 0 {
            let len = usize::from(asked.len);
            if len > LARGEST || (len > SMALL) != (asked.flags & flags::LB != 0) {
                self.complain("an admin buffer is longer than 4096 bytes, or its LB flag does not say its size");
            }
            command.room = len.min(LARGEST);
            if asked.flags & flags::RD != 0 {
                command.data = vec![0; command.room];
                self.bus.read(buffer_address(&params), &mut command.data)?;
            }
        }
        Ok((asked, command))
    }

    /// Buffer, parameters, and then the word with the done bit.
    fn write_answer(&mut self, asked: &Asked, command: &Command, outcome: Answer) -> Result<(), BusFault> {
        let reply = &command.reply[..command.reply.len().min(command.room)];
        if !reply.is_empty() {
            self.bus.write(buffer_address(&asked.params), reply)?;
        }
        let mut params = command.params;
        if asked.flags & flags::BUF != 0 {
            // Where the buffer is stays in the parameters, whatever the answer has there.
            params[8..].copy_from_slice(&asked.params[8..]);
        }
        self.bus.write(asked.at + 16, &params)?;
        let code = outcome.map_or_else(|refusal| refusal as u16, |()| 0);
        let error = if code == 0 { 0 } else { flags::ERR };
        let len = if reply.is_empty() { asked.len } else { reply.len() as u16 };
        let head = [asked.flags | flags::DD | flags::CMP | error, command.opcode, len, code];
        self.bus.store_u64(asked.at, words(head))
    }

    fn write_garbage(&mut self, asked: &Asked, room: usize) -> Result<(), BusFault> {
        if room > 0 {
            self.bus.write(buffer_address(&asked.params), &vec![0xff; room])?;
        }
        self.bus.write(asked.at, &[0xff; LEN as usize])
    }

    fn execute(&mut self, command: &mut Command) -> Answer {
        match self.faults.refuse_command {
            Some((opcode, code)) if opcode == command.opcode => Err(commands::refusal(code)),
            _ => self.command(command),
        }
    }

    /// Something happened that a driver may want to know.
    pub(super) fn post_event(&mut self, event: Event) {
        if self.events.len() < EVENTS {
            self.events.push_back(event);
        } else {
            self.complain("events were lost: nobody gives the admin receive queue descriptors");
        }
    }

    fn tell(&mut self, ring: &Ring, event: &Event) -> Result<(), BusFault> {
        let at = ring.base + LEN * u64::from(ring.head);
        let mut bytes = [0; LEN as usize];
        self.bus.read(at, &mut bytes)?;
        let room = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
        let mut params = event.params;
        params[8..].copy_from_slice(&bytes[24..]);
        let data = &event.data[..event.data.len().min(room)];
        if !data.is_empty() {
            let address = buffer_address(&params);
            self.bus.write(address, data)?;
        }
        self.bus.write(at + 8, &[&[0; 8][..], &params].concat())?;
        let buffer = if data.is_empty() { 0 } else { flags::BUF };
        self.bus.store_u64(at, words([flags::DD | buffer, event.opcode, data.len() as u16, 0]))?;
        self.advance(regs::PF_FW_ARQ, ring);
        self.firmware_event();
        Ok(())
    }
}

/// The address is the last two of four dwords, the high one first.
fn buffer_address(params: &[u8; 16]) -> u64 {
    let dword = |at: usize| u32::from_le_bytes([params[at], params[at + 1], params[at + 2], params[at + 3]]);
    u64::from(dword(8)) << 32 | u64::from(dword(12))
}

/// The first eight bytes of a descriptor: flags, opcode, length, return value.
fn words(values: [u16; 4]) -> u64 {
    values.iter().rev().fold(0, |word, value| word << 16 | u64::from(*value))
}

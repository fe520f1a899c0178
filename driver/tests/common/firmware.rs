//! An E810 without a data path: registers, and firmware that answers a driver's bring-up at once, rightly or as it is told.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use stillwire_dma::{Access, Backend, BarInfo, PciFunction, Result, SharedMemory};
use stillwire_emulator::{BusMemory, MemoryTable};

/// What is wrong with the answers to a command.
#[derive(Clone, Copy, Debug)]
pub enum Twist {
    /// There is none.
    Silence,
    /// It is an error code.
    Code(u16),
    /// It is the answer to another command.
    Opcode,
    /// The descriptor is passed, and not written back.
    NotDone,
    /// It is longer than the buffer.
    Longer,
    /// The buffer is empty.
    Empty,
    /// Parameters and buffer are rubbish, made from a seed.
    Rubbish(u64),
}

/// A command as the firmware has read it.
#[derive(Clone, Debug)]
pub struct Command {
    pub opcode: u16,
    pub flags: u16,
    pub params: [u8; 16],
    pub buffer: Vec<u8>,
}

struct State {
    registers: HashMap<u32, u32>,
    command: u16,
    log: Vec<Command>,
    twist: Option<(u16, Twist)>,
    nodes: u32,
    /// Packages that are told of: version, built in, active.
    packages: Vec<([u8; 4], bool, bool)>,
    /// What the lock of the package answers: status.
    lock: u16,
}

pub struct Firmware {
    state: Mutex<State>,
    memory: Arc<MemoryTable>,
}

impl Firmware {
    pub fn new() -> Arc<Self> {
        let state = State {
            registers: HashMap::from([(GLNVM_ULD, 0x33b), (PF_FUNC_RID, 0x0301)]),
            command: 0,
            log: Vec::new(),
            twist: None,
            nodes: 100,
            packages: vec![([1, 3, 0, 0], true, false)],
            lock: 0,
        };
        Arc::new(Self { state: Mutex::new(state), memory: MemoryTable::new() })
    }

    pub fn function(self: &Arc<Self>) -> PciFunction {
        PciFunction::from_backend(self.clone())
    }

    /// Twists the answers to one command.
    pub fn twist(self: &Arc<Self>, opcode: u16, twist: Twist) -> &Arc<Self> {
        self.state.lock().unwrap().twist = Some((opcode, twist));
        self
    }

    /// What the package lock answers, and a package that is in force from the start.
    pub fn package(self: &Arc<Self>, lock: u16, active: Option<[u8; 4]>) -> &Arc<Self> {
        let mut state = self.state.lock().unwrap();
        state.lock = lock;
        state.packages.extend(active.map(|version| (version, false, true)));
        drop(state);
        self
    }

    /// The commands so far.
    pub fn commands(&self) -> Vec<Command> {
        self.state.lock().unwrap().log.clone()
    }

    pub fn register(&self, offset: u32) -> u32 {
        self.state.lock().unwrap().registers.get(&offset).copied().unwrap_or(0)
    }

    /// Whether DMA may be started.
    pub fn bus_master(&self) -> bool {
        self.state.lock().unwrap().command & 4 != 0
    }

    /// Memory that the device reaches.
    pub fn memory(&self) -> &Arc<MemoryTable> {
        &self.memory
    }

    /// Tells something by itself: puts an event into the receive queue.
    pub fn event(&self, opcode: u16, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let read = |offset| state.registers.get(&offset).copied().unwrap_or(0);
        let (head, count) = (read(0x80380), read(0x80280) & 0x3ff);
        let base = u64::from(read(0x80080)) | u64::from(read(0x80180)) << 32;
        let at = base + u64::from(head) * 32;
        let mut descriptor = [0; 32];
        self.memory.read(at, &mut descriptor).unwrap();
        assert!(usize::from(u16_at(&descriptor, 4)) >= bytes.len(), "the event's buffer is too small");
        self.memory.write(address(&descriptor), bytes).unwrap();
        descriptor[0] |= 1;
        descriptor[2..4].copy_from_slice(&opcode.to_le_bytes());
        descriptor[4..6].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
        self.memory.write(at, &descriptor).unwrap();
        state.registers.insert(0x80380, (head + 1) % count);
    }

    fn doorbell(&self, state: &mut State) {
        let read = |state: &State, offset| state.registers.get(&offset).copied().unwrap_or(0);
        let count = read(state, 0x80200) & 0x3ff;
        let base = u64::from(read(state, 0x80000)) | u64::from(read(state, 0x80100)) << 32;
        while count > 0 && read(state, 0x80300) != read(state, 0x80400) {
            let head = read(state, 0x80300);
            if !self.answer(state, base + u64::from(head) * 32) {
                return;
            }
            state.registers.insert(0x80300, (head + 1) % count);
        }
    }

    /// Answers one command; false when it stays unanswered.
    fn answer(&self, state: &mut State, at: u64) -> bool {
        let mut descriptor = [0; 32];
        self.memory.read(at, &mut descriptor).unwrap();
        let (flags, opcode, len) = (u16_at(&descriptor, 0), u16_at(&descriptor, 2), u16_at(&descriptor, 4));
        let mut buffer = vec![0; if flags & BUF != 0 { len.into() } else { 0 }];
        if flags & RD != 0 {
            self.memory.read(address(&descriptor), &mut buffer).unwrap();
        }
        let params = descriptor[16..].try_into().unwrap();
        let mut command = Command { opcode, flags, params, buffer };
        state.log.push(command.clone());
        let mut code = state.carry_out(&mut command);
        let twist = state.twist.filter(|(twisted, _)| *twisted == opcode).map(|(_, twist)| twist);
        let (mut flags, mut opcode, mut len) = (flags | 3, opcode, command.buffer.len() as u16);
        match twist {
            Some(Twist::Silence) => return false,
            Some(Twist::Code(other)) => code = other,
            Some(Twist::Opcode) => opcode ^= 1,
            Some(Twist::NotDone) => flags &= !1,
            Some(Twist::Longer) => len = 0xffff,
            Some(Twist::Empty) => len = 0,
            Some(Twist::Rubbish(seed)) => {
                let mut random = seed | 1;
                for byte in command.params.iter_mut().chain(&mut command.buffer) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    *byte = random as u8;
                }
            }
            None => {}
        }
        self.memory.write(address(&descriptor), &command.buffer).unwrap();
        for (at, word) in [(0, flags), (2, opcode), (4, len), (6, code)] {
            descriptor[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        descriptor[16..].copy_from_slice(&command.params);
        self.memory.write(at, &descriptor).unwrap();
        true
    }
}

impl State {
    /// What right firmware does; returns the code.
    fn carry_out(&mut self, command: &mut Command) -> u16 {
        let Command { opcode, params, buffer, .. } = command;
        let put = |buffer: &mut Vec<u8>, at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
        match *opcode {
            // Interface 1.7.
            0x0001 => (params[13], params[14]) = (1, 7),
            // Somebody has done it before.
            0x0110 => return 13,
            0x0008 => params[12..14].copy_from_slice(&self.lock.to_le_bytes()),
            0x000a => {
                for (index, (id, number)) in [(0x41u16, 64u32), (0x42, 64), (0x43, 32)].into_iter().enumerate() {
                    put(buffer, index * 32, &id.to_le_bytes());
                    put(buffer, index * 32 + 4, &number.to_le_bytes());
                }
                params[4] = 3;
            }
            0x0107 => {
                (params[0], params[4]) = (1 << 4, 2);
                // Wake on LAN first, then the one for frames.
                put(buffer, 0, &[0, 1, 2, 0, 0, 0, 0, 9, 0, 0, 2, 0, 0, 0, 0, 8]);
            }
            0x0200 => {
                // A VSI in the first answer, the port in the second.
                let first = params[2] == 0;
                put(buffer, 0, if first { &[6, 0x80, 1, 0, 0, 0] } else { &[2, 0, 1, 0, 0, 0] });
                (params[2], params[4]) = (u8::from(first), 1);
            }
            0x020d => return 17,
            0x0210 => params[..2].copy_from_slice(&[0x15, 0x80]),
            0x0400 => {
                params[1] = 1;
                put(buffer, 4, &[9]);
                for (index, kind) in [1, 2, 4, 3, 3, 3, 3, 3, 5].into_iter().enumerate() {
                    put(buffer, 8 + 24 * index, &[index as u8, 0, 0, 0, index as u8 + 1, 0, 0, 0, kind]);
                }
            }
            0x0401 => {
                for node in 0..usize::from(buffer[4]) {
                    self.nodes += 1;
                    let id = self.nodes.to_le_bytes();
                    put(buffer, 8 + 24 * node + 4, &id);
                }
            }
            0x0412 => {
                put(buffer, 2, &[9]);
                (0..9).for_each(|layer| put(buffer, 32 + 32 * layer + 10, &[8]));
            }
            0x0600 => put(buffer, 0, &[0xff]),
            0x0607 => put(buffer, 0, &UP_AT_100G),
            0x0c40 if params[0] & 1 == 1 => self.packages.push(([1, 3, 59, 0], false, true)),
            0x0c43 => {
                put(buffer, 0, &[self.packages.len() as u8]);
                for (index, &(version, built_in, active)) in self.packages.iter().enumerate() {
                    put(buffer, 4 + 40 * index, &version);
                    put(buffer, 4 + 40 * index + 36, &[built_in.into(), active.into()]);
                }
            }
            _ => {}
        }
        0
    }

    fn write(&mut self, offset: u32, value: u32) {
        let value = match offset {
            // Over at once.
            PFGEN_CTRL => value & !1,
            // On and off at once.
            QRX_CTRL..QRX_CTRL_END => value & 1 | (value & 1) << 2,
            _ => value,
        };
        self.registers.insert(offset, value);
    }
}

impl Backend for Firmware {
    fn name(&self) -> String {
        "firmware of a test".into()
    }

    fn config_read(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        let mut config = [0; 256];
        // A capability list with PCI Express alone, and nothing pending.
        (config[6], config[0x34], config[0x40]) = (1 << 4, 0x40, 0x10);
        config[..4].copy_from_slice(&[0x86, 0x80, 0x92, 0x15]);
        config[4..6].copy_from_slice(&self.state.lock().unwrap().command.to_le_bytes());
        data.copy_from_slice(&config[usize::from(offset)..][..data.len()]);
        Ok(())
    }

    fn config_write(&self, offset: u16, data: &[u8]) -> Result<()> {
        assert_eq!(offset, 4, "only the command register is written");
        self.state.lock().unwrap().command = u16::from_le_bytes(data.try_into().unwrap());
        Ok(())
    }

    fn bar(&self, _index: u8) -> Result<BarInfo> {
        Ok(BarInfo { len: 0x80_0000, mapped: Vec::new() })
    }

    fn bar_read(&self, _index: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        data.copy_from_slice(&self.register(offset as u32).to_le_bytes());
        Ok(())
    }

    fn bar_write(&self, _index: u8, offset: u64, data: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        state.write(offset as u32, u32::from_le_bytes(data.try_into().unwrap()));
        if offset == 0x80400 {
            self.doorbell(&mut state);
        }
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        Ok(())
    }

    fn msix_vectors(&self) -> u32 {
        16
    }

    fn set_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        assert!(eventfds.len() <= 16);
        Ok(())
    }

    fn iova_ranges(&self) -> Vec<RangeInclusive<u64>> {
        vec![0x1000..=0xffff_ffff]
    }

    fn dma_map(&self, iova: u64, memory: &SharedMemory, range: Range<usize>, access: Access) -> Result<()> {
        let writable = access == Access::ReadWrite;
        self.memory.map(iova, memory.fd(), range.start as u64, range.len() as u64, writable).unwrap();
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<()> {
        self.memory.unmap(iova, len as u64);
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The buffer that a descriptor names: high half first.
fn address(descriptor: &[u8; 32]) -> u64 {
    u64::from_le_bytes(descriptor[24..].try_into().unwrap()).rotate_left(32)
}

/// A link status: up, at 100 Gb/s.
pub const UP_AT_100G: [u8; 12] = [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 4];
const RD: u16 = 1 << 10;
const BUF: u16 = 1 << 12;
const PFGEN_CTRL: u32 = 0x9_1000;
const PF_FUNC_RID: u32 = 0x9_e880;
const GLNVM_ULD: u32 = 0xb_6008;
const QRX_CTRL: u32 = 0x12_0000;
const QRX_CTRL_END: u32 = 0x12_2000;

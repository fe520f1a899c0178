//! The control queue: every command is answered.

use super::Model;
use super::config::Features;
use super::queue::Chain;

const OK: u8 = 0;
const ERROR: u8 = 1;
/// Longest command that is read: two full tables of addresses, bytes.
const LONGEST: usize = 2 + 2 * (4 + 6 * super::filter::TABLE);

const RX: u8 = 0;
const MAC: u8 = 1;
const MQ: u8 = 4;

impl Model {
    /// Obeys what was posted.
    pub(super) fn step_control(&mut self) -> bool {
        let Some(queue) = self.control_queue() else { return false };
        let mut busy = false;
        for _ in 0..self.config.frames_per_step {
            let Some(chain) = self.next_chain(queue) else { break };
            busy = true;
            self.answer(queue, &chain);
        }
        busy
    }

    fn answer(&mut self, queue: usize, chain: &Chain) {
        let Some((ack, _)) = chain.writable.iter().find(|(_, len)| *len > 0) else {
            return self.fail(queue, "a command without a byte for its answer");
        };
        let total: usize = chain.readable.iter().map(|(_, len)| len).sum();
        let mut bytes = Vec::new();
        let answer = match total {
            2..=LONGEST => match self.bus.gather(&chain.readable, &mut bytes) {
                Ok(()) => self.command(&bytes),
                Err(_) => return self.fail(queue, "bus fault while reading a command"),
            },
            _ => None,
        };
        if self.faults.silent_control {
            return;
        }
        let answer = if answer.is_some() && !self.faults.refuse_control { OK } else { ERROR };
        if self.bus.write(*ack, &[answer]).is_err() {
            return self.fail(queue, "bus fault while answering a command");
        }
        let used = [chain.used(1)];
        match self.misuse(queue) {
            Some(misuse) => self.push_misused(queue, &used, misuse),
            None => drop(self.with_ring(queue, |ring, memory| ring.push(memory, &used))),
        }
        self.signal(queue);
    }

    /// Does what a command says; `None` when it cannot.
    fn command(&mut self, bytes: &[u8]) -> Option<()> {
        let (&[class, command], rest) = bytes.split_first_chunk()?;
        let needs = match (class, command) {
            (RX, _) | (MAC, 0) => Features::CTRL_RX,
            (MAC, _) => Features::CTRL_MAC_ADDR,
            (MQ, _) => Features::MQ,
            _ => return None,
        };
        if !self.features.contains(needs) {
            return None;
        }
        match (class, command, rest) {
            (RX, 0, &[on]) => self.filter.promiscuous = on != 0,
            (RX, 1, &[on]) => self.filter.all_multicast = on != 0,
            (MAC, 0, tables) => self.filter.set_tables(tables)?,
            (MAC, 1, address) => self.mac = address.try_into().ok()?,
            (MQ, 0, &[low, high]) => {
                let pairs = u16::from_le_bytes([low, high]);
                if pairs == 0 || pairs > self.config.pairs {
                    return None;
                }
                self.active_pairs = pairs;
            }
            _ => return None,
        }
        Some(())
    }
}

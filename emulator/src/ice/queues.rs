//! How queues start and stop: transmit queues by command, receive queues by register.

use super::command::{Answer, Command, Refusal, read16, read32, write};
use super::context::{RX_DWORDS, RxContext, TX_LEN, TxContext};
use super::desc::Profile;
use super::{Model, regs};

/// Where a queue stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum State {
    /// There is none.
    #[default]
    Off,
    /// Running.
    On,
    /// It is being disabled, and frames are between their passes.
    Stopping,
    /// It met something it cannot do.
    Halted,
}

/// Bytes of a group's head and of a queue in a command that adds queues, and where in the latter things are.
const GROUP: usize = 8;
const QUEUE: usize = 48;
const QUEUE_TEID: usize = 4;
const QUEUE_CONTEXT: usize = 8;
const QUEUE_INFO: usize = 32;
/// Bytes of a group's head in a command that disables queues.
const DISABLE_GROUP: usize = 6;

impl Model {
    /// 0x0C30: queues under a group of the scheduler.
    pub(super) fn add_tx_queues(&mut self, command: &mut Command) -> Answer {
        let mut data = std::mem::take(&mut command.data);
        let mut at = 0;
        for _ in 0..command.params[0] {
            let (parent, count) = (read32(&data, at)?, *data.get(at + 4).ok_or(Refusal::Einval)?);
            at += GROUP;
            for _ in 0..count {
                let entry = data.get_mut(at..at + QUEUE).ok_or(Refusal::Einval)?;
                if let Err(why) = self.add_tx_queue(parent, entry) {
                    self.complain(why);
                    return Err(Refusal::Einval);
                }
                at += QUEUE;
            }
        }
        command.reply = data;
        Ok(())
    }

    fn add_tx_queue(&mut self, parent: u32, entry: &mut [u8]) -> Result<(), &'static str> {
        let q = usize::from(read16(entry, 0).unwrap_or(u16::MAX));
        let context = TxContext::decode(&entry[QUEUE_CONTEXT..QUEUE_CONTEXT + TX_LEN])?;
        let queue = self.tx.get_mut(q).ok_or("a transmit queue is added whose number no queue has")?;
        if queue.state != State::Off {
            return Err("a transmit queue is added that is there already");
        }
        if self.firmware.vsis.find(context.vsi).is_none() {
            return Err("a transmit queue is added to an interface that there is not");
        }
        let node = self.firmware.scheduler.add_queue(parent, &entry[QUEUE_INFO..])?;
        write(entry, QUEUE_TEID, &node.to_le_bytes());
        self.tails.clear_tx(q);
        queue.start(context, node);
        Ok(())
    }

    /// 0x0C31: queues end; answered when none of their frames will be read any more.
    pub(super) fn disable_tx_queues(&mut self, command: &mut Command) -> Answer {
        let mut named = Vec::new();
        let mut at = 0usize;
        for _ in 0..command.params[1] {
            let (parent, count) = (read32(&command.data, at)?, *command.data.get(at + 4).ok_or(Refusal::Einval)?);
            at += DISABLE_GROUP;
            for _ in 0..count {
                let q = usize::from(read16(&command.data, at)?);
                at += 2;
                let queue = self.tx.get(q).filter(|queue| queue.state != State::Off).ok_or(Refusal::Enoent)?;
                if self.firmware.scheduler.parent(queue.node) != Some(parent) {
                    return Err(Refusal::Einval);
                }
                named.push(q);
            }
            at = at.next_multiple_of(4);
        }
        let mut waits = self.faults.stuck_tx_disable;
        for q in &named {
            self.tx[*q].state = State::Stopping;
            waits |= !self.tx[*q].in_flight.is_empty();
        }
        if waits {
            return Err(Refusal::Later);
        }
        for q in named {
            self.flush_tx(q, true);
            self.firmware.scheduler.remove_queue(self.tx[q].node);
            self.tx[q].reset();
        }
        Ok(())
    }

    /// QRX_CTRL was written.
    pub(super) fn control_rx(&mut self, q: usize, value: u32) {
        let wanted = value & regs::QRX_CTRL_REQ != 0;
        let Some(queue) = self.rx.get(q) else {
            return self.complain("a receive queue is enabled whose number no queue has");
        };
        match (wanted, queue.state) {
            (true, State::Off) => self.start_rx(q),
            (true, _) => {}
            (false, _) => {
                self.flush_rx(q, true);
                self.rx[q].reset();
            }
        }
        self.regs.set(regs::QRX_CTRL + 4 * q as u32, value & !regs::QRX_CTRL_STAT);
    }

    fn start_rx(&mut self, q: usize) {
        let context: [u32; RX_DWORDS as usize] =
            std::array::from_fn(|i| self.regs.get(regs::QRX_CONTEXT + 0x2000 * i as u32 + 4 * q as u32));
        let rxdid = self.regs.get(regs::QRXFLXP_CNTXT + 4 * q as u32) & 0x3f;
        let profile = Profile::new(rxdid).ok_or("a receive descriptor that is not modelled (RXDID; 1, 2 and 22 are)");
        match RxContext::decode(context).and_then(|context| Ok((context, profile?))) {
            Ok((context, profile)) => self.rx[q].start(context, profile),
            Err(why) => self.halt_rx(q, why),
        }
    }

    /// What QRX_CTRL reads.
    pub(super) fn rx_control(&self, q: usize) -> u32 {
        let on = self.rx.get(q).is_some_and(|queue| queue.state != State::Off);
        let shown = on != self.faults.stuck_rx;
        self.regs.get(regs::QRX_CTRL + 4 * q as u32) | if shown { regs::QRX_CTRL_STAT } else { 0 }
    }
}

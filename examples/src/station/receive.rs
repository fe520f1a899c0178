//! What comes in.

use stillwire_driver::{Checksum, RxFrame};

use super::{MOST_WAITING, RX_BUDGET, Station, stopped};
use crate::Result;
use crate::packet::{self, Received};

impl Station {
    pub(super) fn poll_with(&mut self, each: &mut dyn FnMut(&Received<'_>)) -> Result<bool> {
        let mut reclaimed = self.tx()?.reclaim(drop);
        self.watch(reclaimed)?;
        let Some(queues) = &mut self.queues else { return Err(stopped(&self.name)) };
        for tx in &mut queues.spare {
            reclaimed += tx.reclaim(drop);
        }
        let (scratch, bad) = (&mut self.scratch, &mut self.bad_checksums);
        let (me, waiting) = (self.me, &mut self.waiting);
        let mut take = |frame: &RxFrame<'_>, scratch: &mut Vec<u8>| {
            let verdict = frame.checksum();
            if verdict.ip == Checksum::Bad || verdict.transport == Checksum::Bad {
                *bad += 1;
                return;
            }
            frame.copy_to(scratch);
            if verdict.transport == Checksum::Unknown && !packet::checksums_hold(scratch) {
                *bad += 1;
                return;
            }
            let received = Received::parse(scratch);
            if let Received::ArpRequest { asker, asker_ip, wanted } = received
                && wanted == *me.address.ip()
                && waiting.len() < MOST_WAITING
            {
                waiting.push_back((packet::arp_reply(me.mac, wanted, asker, asker_ip), None));
            }
            each(&received);
        };
        let mut received = 0;
        for rx in &mut queues.rx {
            received += match &mut self.capture {
                None => rx.poll(RX_BUDGET, |frame| take(frame, scratch)),
                Some(capture) => {
                    let received = rx.poll(RX_BUDGET, |frame| {
                        frame.copy_to(scratch);
                        capture.received(scratch);
                        take(frame, scratch);
                    });
                    capture.end_batch();
                    received
                }
            };
        }
        let posted = self.post_waiting()?;
        let busy = reclaimed > 0 || received > 0 || posted;
        if busy {
            self.idle_since = None;
        }
        Ok(busy)
    }
}

//! What we say: datagrams of our own bytes, and ARP. They go in the first queue.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use stillwire_driver::{Frame, Posted};

use super::{Cargo, MOST_WAITING, Station, stopped};
use crate::packet::{self, Received, Sum, UdpTemplate};
use crate::{Error, Result};

impl Station {
    /// Finds the Ethernet address of a neighbour.
    ///
    /// # Errors
    /// [`Error::NoNeighbour`].
    pub fn resolve(&mut self, address: Ipv4Addr) -> Result<packet::Mac> {
        let start = Instant::now();
        let mut asked = None::<Instant>;
        let mut found = None;
        while found.is_none() {
            if start.elapsed() >= ARP_DEADLINE {
                return Err(Error::NoNeighbour { address, seconds: ARP_DEADLINE.as_secs() });
            }
            if asked.is_none_or(|asked| asked.elapsed() >= ARP_AGAIN) {
                let request = packet::arp_request(self.me.mac, *self.me.address.ip(), address);
                self.waiting.push_back((request, None));
                asked = Some(Instant::now());
            }
            self.poll_with(&mut |received| match received {
                Received::ArpReply { mac, ip } if *ip == address => found = Some(*mac),
                _ => {}
            })?;
            self.rest(ARP_AGAIN)?;
        }
        Ok(found.expect("the loop ends with it"))
    }

    /// Queues a datagram of our own bytes; it goes out when there is room.
    pub fn send(&mut self, template: &mut UdpTemplate, payload: &[u8]) {
        let mut frame = template.next(payload.len()).to_vec();
        frame.extend_from_slice(payload);
        // What waits is repeated by its sender when it is lost: a bound costs nothing but keeps memory bounded.
        if self.waiting.len() < MOST_WAITING {
            if self.offload.is_none() {
                packet::write_checksums(&mut frame, Sum::default());
            }
            self.waiting.push_back((frame, self.offload));
        }
    }

    pub(super) fn post_waiting(&mut self) -> Result<bool> {
        let mut posted = false;
        while let Some((frame, offload)) = self.waiting.front() {
            // Headers travel by copy, the rest through the pool.
            let (header, rest) = frame.split_at(frame.len().min(packet::UDP_HEADERS));
            let mut out = Frame::new(header);
            out = if let Some(offload) = offload { out.offload(*offload) } else { out };
            if !rest.is_empty() {
                let Some(buffer) = self.pool.fill(rest) else { break };
                out = out.payload(Cargo::Buffer(buffer));
            }
            let Some(queues) = &mut self.queues else { return Err(stopped(&self.name)) };
            match queues.tx.post(out)? {
                Posted::Full(_) => break,
                Posted::Queued => {}
            }
            posted = true;
            if let Some((frame, offload)) = self.waiting.pop_front()
                && let Some(capture) = &mut self.capture
            {
                capture.posted(&frame, offload, None);
            }
        }
        if posted {
            self.tx()?.publish();
            if let Some(capture) = &mut self.capture {
                capture.end_batch();
            }
        }
        Ok(posted)
    }
}

const ARP_DEADLINE: Duration = Duration::from_secs(3);
const ARP_AGAIN: Duration = Duration::from_millis(200);

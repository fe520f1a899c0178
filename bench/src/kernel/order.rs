//! An order: one line of stdin.

use std::str::FromStr;

use super::Error;

/// What can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// `sendfile` into segments.
    Sendfile,
    /// `sendfile` into frames.
    SendfileMtu,
    /// `write` from a mapping.
    Write,
    /// `read` into a buffer, `write` from it.
    ReadWrite,
    /// `MSG_ZEROCOPY` and `UDP_SEGMENT`.
    ZerocopyGso,
}

impl Work {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sendfile, Self::SendfileMtu, Self::Write, Self::ReadWrite, Self::ZerocopyGso];

    /// Its name in orders and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sendfile => "sendfile",
            Self::SendfileMtu => "sendfile-mtu",
            Self::Write => "write",
            Self::ReadWrite => "read-write",
            Self::ZerocopyGso => "zerocopy-gso",
        }
    }
}

/// A work and its keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub work: Work,
    /// Size of the file, MiB.
    pub mib: u64,
    /// Payload of a frame, bytes.
    pub payload: u16,
}

impl FromStr for Order {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        let wrong = |found: String| Error::Order { asked: line.to_owned(), found };
        let mut words = line.split_whitespace();
        if words.next() != Some("run") {
            return Err(wrong("it does not begin with `run`".into()));
        }
        let name = words.next().unwrap_or_default();
        let works = || Work::ALL.map(Work::name).join(", ");
        let work = Work::ALL.into_iter().find(|work| work.name() == name);
        let work = work.ok_or_else(|| wrong(format!("{name:?} is none of the works {}", works())))?;
        let mut order = Self { work, mib: 256, payload: 1460 };
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let within = |least: u64, most: u64| match value.parse() {
                Ok(value) if (least..=most).contains(&value) => Ok(value),
                _ => Err(wrong(format!("{key} is {least} to {most}"))),
            };
            match key {
                "mib" => order.mib = within(1, 16_384)?,
                "payload" => order.payload = within(SMALLEST, LARGEST)? as u16,
                // Keys of the other contestants' works.
                _ => {}
            }
        }
        Ok(order)
    }
}

/// The kernel raises a smaller maximum segment size to this (`TCP_MIN_SND_MSS` is 48), bytes.
const SMALLEST: u64 = 64;
/// Payload of a jumbo frame of 9018 bytes under IPv4 and TCP, bytes.
const LARGEST: u64 = 8960;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_a_work_and_keys_in_any_order() {
        let order = |line: &str| line.parse::<Order>().unwrap();
        assert_eq!(order("run write"), Order { work: Work::Write, mib: 256, payload: 1460 });
        let asked = order("run zerocopy-gso payload=512 ring=512 mib=1\n");
        assert_eq!(asked, Order { work: Work::ZerocopyGso, mib: 1, payload: 512 });
        for work in Work::ALL {
            assert_eq!(order(&format!("run {}", work.name())).work, work);
        }
    }

    #[test]
    fn what_is_no_order_is_told_what_is_one() {
        let wrong = |line: &str| line.parse::<Order>().unwrap_err().to_string();
        assert!(wrong("walk").contains("begin with `run`"));
        assert!(wrong("run sendfyle").contains("sendfile, sendfile-mtu"));
        for line in ["run write mib=0", "run write mib=", "run write mib", "run write mib=-1", "run write mib=16385"] {
            assert!(wrong(line).contains("mib is 1 to 16384"), "{line}");
        }
        assert!(wrong("run write payload=8961").contains("payload is 64 to 8960"));
        assert!(wrong("").contains("say: run WORK"));
    }
}

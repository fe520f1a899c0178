//! Traffic between the guest and the host's own network stack: both ends.
//!
//! The host serves ([`serve`]); the guest runs `xtask traffic KIND FAR-END ...` ([`run`]), whose exit status says whether
//! every byte came as it was sent.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Takes a length and so many bytes, answers with their SHA-256.
const TCP_UP: u16 = 7001;
/// Takes a length, answers with so many bytes and their SHA-256.
const TCP_DOWN: u16 = 7002;
/// Sends every datagram back.
const UDP_ECHO: u16 = 7003;
/// Multicast, in both directions.
const MULTICAST: u16 = 7004;
/// The host is a member: what is sent there comes back to the sender.
const HOSTS_GROUP: Ipv4Addr = Ipv4Addr::new(239, 77, 0, 1);
/// The guest is a member: the host sends there when it is asked to.
const GUESTS_GROUP: Ipv4Addr = Ipv4Addr::new(239, 77, 0, 2);
const NOBODYS_GROUP: Ipv4Addr = Ipv4Addr::new(239, 77, 0, 3);
/// A silence of this length is a loss.
const PATIENCE: Duration = Duration::from_secs(2);
/// A datagram is sent so often before it counts as lost: UDP may lose.
const TRIES: usize = 5;

/// Serves for as long as the process lives.
pub fn serve(here: Ipv4Addr) -> io::Result<()> {
    let (up, down) = (TcpListener::bind((here, TCP_UP))?, TcpListener::bind((here, TCP_DOWN))?);
    std::thread::spawn(move || up.incoming().flatten().for_each(|stream| drop(take(stream))));
    std::thread::spawn(move || down.incoming().flatten().for_each(|stream| drop(give(stream))));
    let echo = UdpSocket::bind((here, UDP_ECHO))?;
    std::thread::spawn(move || answer(&echo, |from, bytes| echo.send_to(bytes, from)));
    Ok(())
}

/// Serves multicast as well; there can be one who does.
pub fn serve_multicast(here: Ipv4Addr) -> io::Result<()> {
    let group = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, MULTICAST))?;
    group.join_multicast_v4(&HOSTS_GROUP, &here)?;
    let out = UdpSocket::bind((here, 0))?;
    std::thread::spawn(move || {
        answer(&group, |from, bytes| {
            out.send_to(bytes, (GUESTS_GROUP, MULTICAST))?;
            group.send_to(bytes, from)
        });
    });
    Ok(())
}

/// Sends datagrams to a group without members.
pub fn to_nobody(here: Ipv4Addr) -> io::Result<String> {
    let socket = UdpSocket::bind((here, 0))?;
    for seed in 0..10 {
        socket.send_to(&pattern(seed, 100), (NOBODYS_GROUP, MULTICAST))?;
    }
    Ok("10 datagrams".into())
}

fn answer(socket: &UdpSocket, reply: impl Fn(std::net::SocketAddr, &[u8]) -> io::Result<usize>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok((len, from)) = socket.recv_from(&mut bytes) {
        // A reply that is lost shows at the one who waits for it.
        let _ = reply(from, &bytes[..len]);
    }
}

fn take(mut stream: TcpStream) -> io::Result<()> {
    let len = read_len(&mut stream)?;
    let digest = digest_of(&mut stream, len)?;
    stream.write_all(&digest)
}

fn give(mut stream: TcpStream) -> io::Result<()> {
    let len = read_len(&mut stream)?;
    let digest = write_pattern(&mut stream, len)?;
    stream.write_all(&digest)
}

/// Runs one kind of traffic against the far end's [`serve`]; says in words what went well or wrong.
pub fn run(args: &[String]) -> Result<String, String> {
    let text = |at: usize| args.get(at).map(String::as_str).ok_or_else(|| USAGE.to_owned());
    let far: Ipv4Addr = text(1)?.parse().map_err(|_| USAGE.to_owned())?;
    let number = || text(2)?.parse::<u64>().map_err(|_| USAGE.to_owned());
    match text(0)? {
        "tcp-up" => tcp(far, TCP_UP, number()?),
        "tcp-down" => tcp(far, TCP_DOWN, number()?),
        "udp" => udp(far, number()? as usize),
        "multicast" => multicast(text(2)?.parse().map_err(|_| USAGE.to_owned())?),
        _ => Err(USAGE.to_owned()),
    }
}

fn tcp(far: Ipv4Addr, port: u16, len: u64) -> Result<String, String> {
    let start = Instant::now();
    let transfer = || -> io::Result<([u8; 32], [u8; 32])> {
        let mut stream = TcpStream::connect((far, port))?;
        stream.write_all(&len.to_be_bytes())?;
        let mine = if port == TCP_UP {
            let mine = write_pattern(&mut stream, len)?;
            stream.shutdown(Shutdown::Write)?;
            mine
        } else {
            digest_of(&mut stream, len)?
        };
        let mut theirs = [0; 32];
        stream.read_exact(&mut theirs)?;
        Ok((mine, theirs))
    };
    let (mine, theirs) = transfer().map_err(|error| format!("{len} bytes of TCP: {error}"))?;
    if mine != theirs {
        return Err(format!("{len} bytes of TCP: the SHA-256 sums of the two ends differ"));
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(format!("{len} bytes in {seconds:.1} s, {:.1} MB/s", len as f64 / 1e6 / seconds))
}

/// Datagrams of every size from 0 to the largest that an MTU of `most` + 28 takes.
fn udp(far: Ipv4Addr, most: usize) -> Result<String, String> {
    let error = |error: io::Error| format!("UDP: {error}");
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(error)?;
    socket.connect((far, UDP_ECHO)).map_err(error)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(error)?;
    let mut again = 0;
    for size in 0..=most {
        again += exchange(&socket, &pattern(size as u64, size), |socket, bytes| socket.send(bytes))?;
    }
    Ok(format!("{} datagrams came back as they were sent, {again} were sent again", most + 1))
}

/// Sends until the same bytes come back; returns how often that was more than once.
fn exchange(
    socket: &UdpSocket,
    bytes: &[u8],
    send: impl Fn(&UdpSocket, &[u8]) -> io::Result<usize>,
) -> Result<usize, String> {
    for again in 0..TRIES {
        send(socket, bytes).map_err(|error| format!("{} bytes of UDP: {error}", bytes.len()))?;
        let mut back = vec![0; 1 << 16];
        while let Ok(len) = socket.recv(&mut back) {
            if back[..len] == *bytes {
                return Ok(again);
            }
            // Another length is a late answer to an earlier datagram.
            if len == bytes.len() {
                return Err(format!("{len} bytes of UDP came back changed"));
            }
        }
    }
    Err(format!("{} bytes of UDP did not come back in {TRIES} tries", bytes.len()))
}

fn multicast(here: Ipv4Addr) -> Result<String, String> {
    let error = |error: io::Error| format!("multicast: {error}");
    let socket = UdpSocket::bind((here, 0)).map_err(error)?;
    let group = UdpSocket::bind((GUESTS_GROUP, MULTICAST)).map_err(error)?;
    group.join_multicast_v4(&GUESTS_GROUP, &here).map_err(error)?;
    for socket in [&socket, &group] {
        socket.set_read_timeout(Some(PATIENCE)).map_err(error)?;
    }
    let mut again = 0;
    for seed in 0..10 {
        let bytes = pattern(seed, 700 + seed as usize);
        // The unicast answer proves the way there, what comes to the group the way back.
        again += exchange(&socket, &bytes, |socket, bytes| socket.send_to(bytes, (HOSTS_GROUP, MULTICAST)))?;
        again += exchange(&group, &bytes, |_, bytes| socket.send_to(bytes, (HOSTS_GROUP, MULTICAST)))?;
    }
    Ok(format!("10 datagrams to a group there and 10 from a group here, {again} were sent again"))
}

fn read_len(stream: &mut TcpStream) -> io::Result<u64> {
    let mut len = [0; 8];
    stream.read_exact(&mut len)?;
    Ok(u64::from_be_bytes(len))
}

fn digest_of(stream: &mut impl Read, len: u64) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut left = len;
    let mut bytes = vec![0; 1 << 16];
    while left > 0 {
        let want = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.read_exact(&mut bytes[..want])?;
        digest.update(&bytes[..want]);
        left -= want as u64;
    }
    Ok(digest.finalize().into())
}

fn write_pattern(stream: &mut impl Write, len: u64) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut left = len;
    let mut seed = len;
    while left > 0 {
        let bytes = pattern(seed, usize::try_from(left).unwrap_or(usize::MAX).min(1 << 16));
        stream.write_all(&bytes)?;
        digest.update(&bytes);
        left -= bytes.len() as u64;
        seed += 1;
    }
    Ok(digest.finalize().into())
}

/// Bytes that do not repeat within a frame (xorshift, Marsaglia 2003).
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::from_fn(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state.to_le_bytes())
    });
    words.flatten().take(len).collect()
}

const USAGE: &str = "xtask traffic tcp-up|tcp-down FAR BYTES, udp FAR SIZE, multicast FAR HERE";

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(args: &[&str]) -> Result<String, String> {
        run(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn both_ends_agree_on_loopback() {
        // An address of this test's own, so that nothing else has these ports.
        serve(Ipv4Addr::new(127, 77, 0, 1)).unwrap();
        for args in [
            &["tcp-up", "127.77.0.1", "1000000"],
            &["tcp-down", "127.77.0.1", "1000000"],
            &["udp", "127.77.0.1", "1472"],
        ] {
            traffic(args).unwrap();
        }
        assert!(traffic(&["tcp-up", "127.77.0.2", "10"]).unwrap_err().contains("refused"));
        assert_eq!(traffic(&["tcp-up"]).unwrap_err(), USAGE);
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(echo.local_addr().unwrap()).unwrap();
        std::thread::spawn(move || {
            answer(&echo, |from, bytes| {
                let mut bytes = bytes.to_vec();
                bytes[99] ^= 1;
                echo.send_to(&bytes, from)
            });
        });
        let error = exchange(&socket, &pattern(1, 100), |socket, bytes| socket.send(bytes)).unwrap_err();
        assert!(error.contains("came back changed"), "{error}");
    }
}

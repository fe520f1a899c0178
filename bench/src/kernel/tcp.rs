//! A file over TCP.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::sendfile;
use socket2::{Domain, Socket, Type};

use super::far_end::FarEnd;
use super::hot::HotFile;
use super::order::{Order, Work};
use super::pair::{Cores, cpu_time};
use super::tun::Tun;
use super::{Error, Outcome};

/// Sends the file as `order` says.
///
/// # Errors
/// No connection, a send that fails, acknowledgements that do not come.
pub fn run(tun: &Tun, file: &HotFile, order: &Order, cores: &Cores) -> Result<Outcome, Error> {
    tun.take_segments(order.work != Work::SendfileMtu)?;
    let (arrived, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut far = FarEnd::new(order.payload);
    let (sent, played) = thread::scope(|scope| {
        let far = &mut far;
        let player = scope.spawn(|| {
            cores.go_far()?;
            let asked = "the far side of the TUN interface";
            let answering = tun.play(far, cores.apart, &arrived, &stop).map_err(Error::system(asked))?;
            Ok((cpu_time(), answering))
        });
        let stopper = Stopper(&stop);
        let sent = send(file, order.work, &arrived);
        drop(stopper);
        (sent, player.join().expect("the far end does not panic"))
    });
    // Who ended first is the cause of what the other reports.
    let ((far_cpu, answering), cpu) = (played?, sent?);
    let more = vec![
        ("ack_ns", (answering.as_nanos() as u64).into()),
        ("far_ns", (far_cpu.as_nanos() as u64).into()),
        ("wasted", far.wasted.into()),
    ];
    Ok(Outcome { cpu, frames: far.segments, bytes: far.bytes, more })
}

/// Ends the far end, also when the sender panics: the scope waits for it.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Connects, sends, and waits until all has arrived; CPU time of the sending.
fn send(file: &HotFile, work: Work, arrived: &AtomicU64) -> Result<Duration, Error> {
    let socket = connect().map_err(Error::system("a connection to the far end"))?;
    let late = |asked| {
        let found = format!("{} of {} bytes have arrived", arrived.load(Ordering::Acquire), file.len());
        Error::Late { asked, deadline: PATIENCE, found }
    };
    let start = cpu_time();
    match work {
        Work::Write => timed_write(&socket, &file.map),
        Work::ReadWrite => timed_read_write(&socket, &file.file, file.len()),
        _ => timed_sendfile(&socket, &file.file, file.len()),
    }
    .map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => late("room for more to send"),
        _ => Error::System { asked: "sending the file", source },
    })?;
    let spent = cpu_time() - start;
    let begin = Instant::now();
    while arrived.load(Ordering::Acquire) < file.len() {
        if begin.elapsed() > PATIENCE {
            return Err(late("the last acknowledgement"));
        }
        thread::sleep(Duration::from_micros(100));
    }
    Ok(spent)
}

fn connect() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // A sender that is stuck is told so by an error instead of waiting for ever.
    socket.set_write_timeout(Some(PATIENCE))?;
    // All has been acknowledged when it is closed: a reset spares the far end the farewell.
    socket.set_linger(Some(Duration::ZERO))?;
    let to: SocketAddr = format!("{}.2:9", Tun::NET).parse().expect("an address and a port");
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket)
}

#[inline(never)]
fn timed_sendfile(socket: &Socket, file: &File, len: u64) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let left = (len - at) as usize;
        if sendfile(socket, file, Some(&mut at), left)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[inline(never)]
fn timed_write(mut socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(CHUNK).try_for_each(|chunk| socket.write_all(chunk))
}

#[inline(never)]
fn timed_read_write(mut socket: &Socket, file: &File, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    for at in (0..len).step_by(CHUNK) {
        file.read_exact_at(&mut buffer, at)?;
        socket.write_all(&buffer)?;
    }
    Ok(())
}

/// Bytes a call, a divisor of a MiB: few calls, and a buffer that the core's own caches hold.
const CHUNK: usize = 128 * 1024;
/// How long any wait may take.
const PATIENCE: Duration = Duration::from_secs(10);

//! An ordinary kernel UDP socket with as much room as we may have.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::failure::Failure;
use crate::port::Port;

/// The socket.
pub struct Listening {
    socket: UdpSocket,
    address: SocketAddr,
    window: u32,
}

/// Listens on `listen`.
pub fn listen(listen: SocketAddr) -> Result<Listening, Failure> {
    let failure = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Failure::AddressInUse(listen),
        io::ErrorKind::AddrNotAvailable => Failure::NotOurAddress(listen),
        io::ErrorKind::PermissionDenied => Failure::PortNotPermitted(listen),
        _ => Failure::Listen { listen, source },
    };
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP)).map_err(failure)?;
    let window = widen(&socket).map_err(failure)?;
    socket.bind(&listen.into()).map_err(failure)?;
    socket.set_read_timeout(Some(LONGEST_WAIT)).map_err(failure)?;
    let socket = UdpSocket::from(socket);
    let address = socket.local_addr().map_err(failure)?;
    Ok(Listening { socket, address, window })
}

impl Port for Listening {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn window(&self) -> u32 {
        self.window
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<(usize, SocketAddr)>, Failure> {
        match self.socket.recv_from(buffer) {
            Ok(received) => Ok(Some(received)),
            Err(error) if is_passing(&error) => Ok(None),
            Err(source) => Err(Failure::Socket { listen: self.address, source }),
        }
    }

    fn reply(&mut self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(bytes, to).map(drop)
    }
}

/// Errors that say nothing about the socket: no datagram in time, a signal, or an earlier reply that met a closed port.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted | ConnectionRefused)
}

/// Makes the receive buffer as large as permitted.
fn widen(socket: &Socket) -> io::Result<u32> {
    // The first needs CAP_NET_ADMIN and ignores net.core.rmem_max; the second is cut to it without an error.
    if sockopt::set_socket_recv_buffer_size_force(socket, WANTED).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, WANTED)?;
    }
    // The kernel doubles what was asked for, as bookkeeping is charged too; the window's overhead stands for that.
    let granted = sockopt::socket_recv_buffer_size(socket)? / 2;
    if granted < WANTED {
        eprintln!(
            "receive: the socket buffer holds {} KiB, a fast sender will wait often; \
             `sysctl -w net.core.rmem_max={WANTED}` permits the {} KiB asked for",
            granted >> 10,
            WANTED >> 10,
        );
    }
    Ok(u32::try_from(granted).unwrap_or(u32::MAX))
}

/// Receive buffer asked for, bytes: more than fits between two answers on a 10 Gbit/s LAN.
const WANTED: usize = 2 << 20;
/// How long a wait for a datagram may take before the loop looks at signals and the clock.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

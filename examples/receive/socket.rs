//! An ordinary kernel UDP socket with as much room as we may have.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::failure::Failure;

/// Listens on `listen`. Also tells the window to announce: bytes that the socket can hold unread.
pub fn listen(listen: SocketAddr) -> Result<(UdpSocket, u32), Failure> {
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
    Ok((socket.into(), window))
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

//! Headers that frames are sent with. Checksums are the NIC's work.

/// Bytes of Ethernet, IPv4 and TCP headers.
pub const TCP_HEADERS: usize = 54;

/// An Ethernet, IPv4 and UDP header for `payload` bytes.
pub fn udp_header(payload: usize) -> [u8; 42] {
    let mut header = [0; 42];
    ip_header(&mut header, 17, payload);
    header[38..40].copy_from_slice(&((8 + payload) as u16).to_be_bytes());
    header
}

/// An Ethernet, IPv4 and TCP header for `payload` bytes.
pub fn tcp_header(payload: usize) -> [u8; TCP_HEADERS] {
    let mut header = [0; TCP_HEADERS];
    ip_header(&mut header, 6, payload);
    // Data offset, ACK, window.
    header[46..50].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
    header
}

/// All up to the ports.
fn ip_header(header: &mut [u8], protocol: u8, payload: usize) {
    let datagram = header.len() - 14 + payload;
    header[..12].copy_from_slice(&[2, 0x53, 0x57, 0, 0, 2, 2, 0x53, 0x57, 0, 0, 1]);
    header[12] = 0x08;
    header[14] = 0x45;
    header[16..18].copy_from_slice(&(datagram as u16).to_be_bytes());
    header[22] = 64;
    header[23] = protocol;
    header[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    header[34..38].copy_from_slice(&[0x0f, 0xa0, 0x0f, 0xa1]);
}

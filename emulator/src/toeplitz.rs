//! Receive-side scaling's hash.

use crate::headers::{Headers, Network};

/// The Toeplitz hash of `input` under `key`.
pub fn hash(key: &[u8], input: &[u8]) -> u32 {
    let byte = |i: usize| u64::from(key.get(i).copied().unwrap_or(0));
    let mut window = (0..8).fold(0, |window, i| window << 8 | byte(i));
    let mut hash = 0;
    for (i, bits) in input.iter().enumerate() {
        for bit in 0..8 {
            if bits >> (7 - bit) & 1 == 1 {
                hash ^= (window >> 32) as u32;
            }
            window <<= 1;
        }
        window |= byte(i + 8);
    }
    hash
}

/// Addresses of a frame, and with `ports` those of its transport, in the order in which they are hashed.
pub fn input(frame: &[u8], headers: &Headers, ports: bool) -> Vec<u8> {
    let addresses = match headers.network {
        Network::V4 { .. } => 12..20,
        Network::V6 { .. } => 8..40,
    };
    let mut input = frame[headers.ip.start + addresses.start..headers.ip.start + addresses.end].to_vec();
    if let Some((_, body)) = headers.transport.as_ref().filter(|_| ports) {
        input.extend_from_slice(&frame[body.start..body.start + 4]);
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microsofts_published_vectors() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
            0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
            0xbe, 0xac, 0x01, 0xfa,
        ];
        // 66.9.149.187:2794 to 161.142.100.80:1766.
        let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(hash(&key, &input), 0x51cc_c178);
        assert_eq!(hash(&key, &input[..8]), 0x323e_8fc2);
    }
}

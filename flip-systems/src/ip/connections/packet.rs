//! The packet that makes a client show what it believes: a TCP acknowledgement out of place.
//!
//! A client whose connection is synchronized answers a segment that does not fit with an acknowledgement of its
//! own (RFC 9293 §3.10.7.4, first check; RFC 5961 §5), whatever it was doing. That arrives at the new holder of
//! the address, which knows no such connection, and whose kernel answers with a reset that bears exactly the
//! number that the client expects (RFC 9293 §3.5.2, group 1): the client's connection ends at once, not after
//! the minutes of its own retransmissions. A connection that is well is not harmed: it, too, only answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a TCP header without options.
const TCP: usize = 20;
const V4: usize = 20;
const V6: usize = 40;
const PROTOCOL_TCP: u8 = 6;
const HOPS: u8 = 64;
/// ACK alone.
const FLAGS: u8 = 0x10;
/// Any will do: nothing is to be received.
const WINDOW: u16 = 1024;

/// One end of a connection.
pub(crate) type Socket = (IpAddr, u16);

/// An acknowledgement from `holder` to `client` with these numbers, as a whole IP packet; none where the two are
/// of different families.
pub(crate) fn tickle(holder: Socket, client: Socket, sequence: u32) -> Option<Vec<u8>> {
    let segment = segment(holder, client, sequence);
    match (holder.0, client.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(packet4(from, to, segment)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(packet6(from, to, segment)),
        _ => None,
    }
}

/// RFC 9293 §3.1.
fn segment(holder: Socket, client: Socket, sequence: u32) -> [u8; TCP] {
    let mut segment = [0; TCP];
    segment[0..2].copy_from_slice(&holder.1.to_be_bytes());
    segment[2..4].copy_from_slice(&client.1.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    // Acknowledges nothing that was ever sent, as far as anybody knows.
    segment[8..12].copy_from_slice(&sequence.to_be_bytes());
    segment[12] = (TCP as u8 / 4) << 4;
    segment[13] = FLAGS;
    segment[14..16].copy_from_slice(&WINDOW.to_be_bytes());
    segment
}

/// RFC 791 §3.1.
fn packet4(from: Ipv4Addr, to: Ipv4Addr, mut segment: [u8; TCP]) -> Vec<u8> {
    let mut pseudo = [from.octets(), to.octets()].concat();
    pseudo.extend([0, PROTOCOL_TCP, 0, TCP as u8]);
    seal(&mut segment, &pseudo);
    let mut header = [0; V4];
    header[0] = 0x45;
    header[3] = (V4 + TCP) as u8;
    header[8] = HOPS;
    header[9] = PROTOCOL_TCP;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&header, &[]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header[..], &segment].concat()
}

/// RFC 8200 §3 and §8.1.
fn packet6(from: Ipv6Addr, to: Ipv6Addr, mut segment: [u8; TCP]) -> Vec<u8> {
    let mut pseudo = [from.octets(), to.octets()].concat();
    pseudo.extend([0, 0, 0, TCP as u8, 0, 0, 0, PROTOCOL_TCP]);
    seal(&mut segment, &pseudo);
    let mut header = [0; V6];
    header[0] = 0x60;
    header[5] = TCP as u8;
    header[6] = PROTOCOL_TCP;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());
    [&header[..], &segment].concat()
}

fn seal(segment: &mut [u8; TCP], pseudo: &[u8]) {
    let sum = checksum(pseudo, segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum (RFC 1071) over two parts of even length.
fn checksum(first: &[u8], second: &[u8]) -> u16 {
    let words = first.chunks_exact(2).chain(second.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str, port: u16) -> Socket {
        (ip.parse().unwrap(), port)
    }

    #[test]
    fn ipv4_byte_by_byte() {
        let packet = tickle(at("192.0.2.1", 80), at("198.51.100.7", 49_152), 0).unwrap();
        #[rustfmt::skip]
        let expected = [
            // Version and length, service, total length, identification, fragment, hops, TCP, checksum.
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0x8e, 0x94,
            192, 0, 2, 1, 198, 51, 100, 7,
            // Ports, sequence, acknowledgement.
            0, 80, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            // Length of the header, ACK, window, checksum, urgent pointer.
            0x50, 0x10, 0x04, 0, 0xff, 0x47, 0, 0,
        ];
        assert_eq!(packet, expected);
        // A sum over what it covers is all ones (RFC 1071 §1).
        assert_eq!(checksum(&packet[..20], &[]), 0);
        let pseudo = [192, 0, 2, 1, 198, 51, 100, 7, 0, 6, 0, 20];
        assert_eq!(checksum(&pseudo, &packet[20..]), 0);
    }

    #[test]
    fn ipv6_byte_by_byte() {
        let packet = tickle(at("2001:db8::1", 443), at("2001:db8::7", 50_000), 0x8000_0000).unwrap();
        assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 20, 6, 64]);
        assert_eq!(packet[8..24], "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(packet[24..40], "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        let mut pseudo = packet[8..40].to_vec();
        pseudo.extend([0, 0, 0, 20, 0, 0, 0, 6]);
        assert_eq!(checksum(&pseudo, &packet[40..]), 0);
        assert_eq!(packet[40..44], [0x01, 0xbb, 0xc3, 0x50]);
        assert_eq!(packet[44..52], [0x80, 0, 0, 0, 0x80, 0, 0, 0]);
        assert_eq!((packet[52], packet[53], packet.len()), (0x50, 0x10, 60));
    }

    #[test]
    fn families_are_not_mixed() {
        assert_eq!(tickle(at("192.0.2.1", 80), at("2001:db8::7", 1), 0), None);
        assert_eq!(tickle(at("2001:db8::7", 80), at("192.0.2.1", 1), 0), None);
    }
}

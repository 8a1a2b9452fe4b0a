//! An ICMP echo request, as the witness gets them.

use std::io;
use std::net::IpAddr;

use super::plain;
use crate::Witness;

/// The one request of a socket of its own: no other's answer has its cookie.
const NONCE: u16 = 1;

pub(super) async fn ask(ip: IpAddr) -> Result<(), String> {
    let socket = Witness::open(ip).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "cannot open an ICMP socket: give flip CAP_NET_RAW, or allow ping sockets to its group \
             (sysctl net.ipv4.ping_group_range)"
                .to_owned()
        }
        _ => format!("cannot open an ICMP socket: {}", plain(&error)),
    })?;
    socket.ping(NONCE);
    socket.answered().await.map(drop).map_err(|error| plain(&error))
}

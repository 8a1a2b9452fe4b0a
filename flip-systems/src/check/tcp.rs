//! A TCP connection.

use std::io;
use std::net::{IpAddr, SocketAddr};

use flip_core::config::checks::Endpoint;
use tokio::net::{TcpSocket, TcpStream};

use super::plain;

/// Connects; a name is looked up, and all its addresses are tried.
pub(super) async fn connect(to: &Endpoint) -> Result<TcpStream, String> {
    open(to, None).await.map_err(|why| format!("cannot connect to {to}: {why}"))
}

/// As [`connect`], from this address of this host, if one is given; an error says only why not.
pub(super) async fn open(to: &Endpoint, source: Option<IpAddr>) -> Result<TcpStream, String> {
    let place = (to.host.as_str(), to.port);
    let Some(source) = source else {
        return TcpStream::connect(place).await.map_err(|error| plain(&error));
    };
    let mut last = None;
    for address in tokio::net::lookup_host(place).await.map_err(|error| plain(&error))? {
        if address.is_ipv4() != source.is_ipv4() {
            continue;
        }
        let socket = bound(source)
            .map_err(|error| format!("{source} is no address to connect from here: {}", plain(&error)))?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) => format!("{} (from {source})", plain(&error)),
        None => format!("{to} cannot be reached from {source}: one is IPv4, the other IPv6"),
    })
}

fn bound(source: IpAddr) -> io::Result<TcpSocket> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0))?;
    Ok(socket)
}

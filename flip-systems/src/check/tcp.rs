//! A TCP connection.

use flip_core::config::checks::Endpoint;
use tokio::net::TcpStream;

use super::plain;

/// Connects; a name is looked up, and all its addresses are tried.
pub(super) async fn connect(to: &Endpoint) -> Result<TcpStream, String> {
    TcpStream::connect((to.host.as_str(), to.port))
        .await
        .map_err(|error| format!("cannot connect to {to}: {}", plain(&error)))
}

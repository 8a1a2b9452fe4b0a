//! Frames over TCP: one request and one answer per connection, for what is too long for a datagram.
//!
//! A frame is its length (u32, big-endian) and its bytes, which are sealed like a datagram. Whoever
//! connects is unknown until the seal is checked, so connections are few, short and bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flip_core::limits::FRAME;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Connections served at a time; more wait in the kernel's queue.
pub const SERVED: usize = 16;
/// How long one exchange may take, on either side.
pub const LIMIT: Duration = Duration::from_secs(5);

/// What the streams hand to the loop.
#[derive(Debug)]
pub enum Frame {
    /// A peer asks: `Input::StreamRequest`.
    Request {
        /// The frame.
        data: Vec<u8>,
        /// Takes the answer, where the rules give one; dropped, the connection closes without a word.
        reply: oneshot::Sender<Vec<u8>>,
    },
    /// The answer to [`ask`]: `Input::StreamReply`.
    Reply(Vec<u8>),
}

/// Serves peers until it is dropped; exchanges that have begun then go on to their end.
pub async fn serve(listener: TcpListener, frames: mpsc::Sender<Frame>) {
    let slots = Arc::new(Semaphore::new(SERVED));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let frames = frames.clone();
                tokio::spawn(async move {
                    // A peer that fails here asks again.
                    let _ = timeout(LIMIT, answer(stream, frames)).await;
                    drop(slot);
                });
            }
            // Out of files, most likely: others have to end first.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, frames: mpsc::Sender<Frame>) -> io::Result<()> {
    let data = read(&mut stream).await?;
    let (reply, answer) = oneshot::channel();
    if frames.send(Frame::Request { data, reply }).await.is_err() {
        return Ok(());
    }
    match answer.await {
        Ok(data) => write(&mut stream, &data).await,
        // Refused: the connection closes without a word.
        Err(_) => Ok(()),
    }
}

/// Sends one frame to a peer and hands in its answer; failures are dropped, the rules ask again.
pub async fn ask(to: SocketAddr, data: Vec<u8>, frames: mpsc::Sender<Frame>) {
    match exchange(to, &data).await {
        Ok(data) => {
            // The loop is gone only when the daemon ends.
            let _ = frames.send(Frame::Reply(data)).await;
        }
        Err(error) => tracing::debug!(%to, %error, "no answer to a stream"),
    }
}

/// Sends one frame and gives its answer.
///
/// # Errors
/// When there is none within [`LIMIT`]. Whoever does not like the frame closes the connection without a word:
/// [`io::ErrorKind::UnexpectedEof`].
pub async fn exchange(to: SocketAddr, data: &[u8]) -> io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        write(&mut stream, data).await?;
        read(&mut stream).await
    };
    timeout(LIMIT, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn write(stream: &mut TcpStream, data: &[u8]) -> io::Result<()> {
    let len = u32::try_from(data.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(data).await
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = stream.read_u32().await? as usize;
    if len > FRAME {
        return Err(io::Error::other(format!("a frame of {len} bytes, the limit is {FRAME}")));
    }
    // It grows with what really arrives: a length alone costs the receiver nothing.
    let mut data = Vec::new();
    stream.take(len as u64).read_to_end(&mut data).await?;
    if data.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(data)
}

#[cfg(test)]
mod tests;

//! Server-sent events: a response that goes on, for those who keep up with it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::error::ApiError;

/// Streams at a time: each takes a connection that somebody else could have.
pub const STREAMS: usize = 64;
/// What waits for a reader, in pieces; beyond that the reader is waited for.
const WAITING: usize = 16;
/// How long a reader may take no piece.
const SLOW: Duration = Duration::from_secs(5);
/// A stream on which nothing happens says so, or what is between may take it for dead.
const ALIVE: Duration = Duration::from_secs(15);

/// The end of a stream that something is put into.
pub struct Writer {
    pieces: mpsc::Sender<Bytes>,
    last: Arc<Mutex<Option<Bytes>>>,
    _slot: OwnedSemaphorePermit,
}

/// Nobody reads any more, or too slowly.
#[derive(Debug)]
pub struct Gone;

impl Writer {
    /// Begins a stream.
    pub fn begin(streams: &Arc<Semaphore>) -> Result<(Self, Response), ApiError> {
        let slot = Arc::clone(streams).try_acquire_owned().map_err(|_| {
            let message = format!("{STREAMS} streams are open, and no more are served");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", message)
                .hint("end one of them, or ask again and again for what you want to know")
        })?;
        let (pieces, inbox) = mpsc::channel(WAITING);
        let last = Arc::new(Mutex::new(None));
        let body = Pieces { inbox, last: Arc::clone(&last) };
        let mut response = Body::new(body).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        Ok((Self { pieces, last, _slot: slot }, response))
    }

    /// Sends an event, once there is room for it.
    pub async fn send(&self, id: Option<u64>, kind: Option<&str>, data: &str) -> Result<(), Gone> {
        self.put(event(id, kind, data)).await
    }

    /// Waits for something; says meanwhile that the stream is alive.
    pub async fn wait<T>(&self, what: impl Future<Output = T>) -> Result<T, Gone> {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                found = &mut what => return Ok(found),
                () = self.pieces.closed() => return Err(Gone),
                () = tokio::time::sleep(ALIVE) => self.put(Bytes::from_static(b": alive\n\n")).await?,
            }
        }
    }

    async fn put(&self, piece: Bytes) -> Result<(), Gone> {
        match timeout(SLOW, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Gone),
            Err(_) => {
                let message = format!("the reader took nothing for {SLOW:?}, so the stream ends");
                tracing::info!("API: {message}");
                let why = ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow_reader", message)
                    .hint("go on from the last id that came, with the header Last-Event-ID");
                self.end(&why);
                Err(Gone)
            }
        }
    }

    /// Says with its last piece why the stream ends.
    pub fn end(&self, why: &ApiError) {
        let line = String::from_utf8(super::json::bytes(&why.body()).to_vec()).unwrap_or_default();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(event(None, Some("error"), line.trim_end()));
    }
}

/// One event in the form of the HTML standard. `data` is one line.
fn event(id: Option<u64>, kind: Option<&str>, data: &str) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    let kind = kind.map(|kind| format!("event: {kind}\n")).unwrap_or_default();
    format!("{id}{kind}data: {data}\n\n").into()
}

/// The end of a stream that is read.
struct Pieces {
    inbox: mpsc::Receiver<Bytes>,
    last: Arc<Mutex<Option<Bytes>>>,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.inbox.poll_recv(cx).map(|piece| {
            let piece = piece.or_else(|| self.last.lock().unwrap_or_else(PoisonError::into_inner).take());
            piece.map(|piece| Ok(Frame::data(piece)))
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_cut_and_told_why() {
        let streams = Arc::new(Semaphore::new(1));
        let (writer, response) = Writer::begin(&streams).unwrap();
        assert!(Writer::begin(&streams).is_err(), "no more than there is room for");
        let mut sent = 0;
        while writer.send(Some(sent), None, "x").await.is_ok() {
            sent += 1;
        }
        assert_eq!(sent, WAITING as u64, "what waits is bounded");
        drop(writer);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.starts_with("id: 0\ndata: x\n\nid: 1\ndata: x\n\n"), "{text}");
        let (_, end) = text.split_once("event: error\ndata: ").unwrap();
        assert!(end.contains(r#""code":"slow_reader""#) && end.ends_with("\n\n"), "{end}");
        assert!(Writer::begin(&streams).is_ok(), "its place is free again");
    }

    #[tokio::test]
    async fn a_reader_that_goes_ends_the_wait() {
        let streams = Arc::new(Semaphore::new(1));
        let (writer, response) = Writer::begin(&streams).unwrap();
        assert_eq!(writer.wait(std::future::ready(7)).await.unwrap(), 7);
        drop(response);
        assert!(writer.wait(std::future::pending::<()>()).await.is_err());
        assert!(writer.send(None, None, "x").await.is_err());
    }
}

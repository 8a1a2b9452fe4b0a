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
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use super::Api;
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
    pub fn begin(api: &Api) -> Result<(Self, Response), ApiError> {
        let slot = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| {
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

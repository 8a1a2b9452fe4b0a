//! Where the API listens: the Unix socket always, and TCP where the config says so. HTTP/1.1 on both.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::access::Access;
use super::guard::Peer;
use super::stalled::{STALLED, Stalled};

/// Connections at a time, for each way in: who floods the one does not shut the other.
pub const SERVED: usize = 128;
/// TLS handshakes at a time: each keeps the thread of the loop busy for a moment.
const HANDSHAKES: usize = 4;
/// How long a client may take with a handshake, with the head of a request, or with the next request.
const HEAD: Duration = Duration::from_secs(5);
/// Bytes of a head, and of what is read ahead.
const BUFFER: usize = 64 * 1024;

/// The Unix socket, removed when this is dropped.
pub struct Socket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl Socket {
    /// Binds the socket. The caller holds the lock of the state dir, so what lies there is left over.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot remove the old socket {}", path.display()));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).with_context(|| {
            format!(
                "cannot make the socket {}; choose another path (of at most 107 bytes) with --socket",
                path.display()
            )
        })?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot restrict the socket {}", path.display()))?;
        Ok(Self { path: path.to_owned(), listener: Some(listener) })
    }

    /// Serves tools until it is dropped.
    pub fn serve(&mut self, router: Router) -> impl Future<Output = ()> + Send + use<> {
        let listener = self.listener.take();
        async move {
            let Some(listener) = listener else { return };
            let slots = Arc::new(Semaphore::new(SERVED));
            while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let peer =
                            stream.peer_cred().map(|cred| Peer::Local { uid: cred.uid(), pid: cred.pid() });
                        // Without its name nothing could be audited.
                        let Ok(peer) = peer else { continue };
                        tokio::spawn(serve(stream, peer, router.clone(), slot));
                    }
                    Err(error) => pause(&error).await,
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Left behind it would only be refused by the next tool.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The address of `admin.listen`.
pub struct Tcp {
    listener: TcpListener,
    access: Arc<Access>,
}

impl Tcp {
    pub async fn bind(access: Access) -> anyhow::Result<Self> {
        let listen = access.listen();
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("cannot listen at {listen}; choose another address with admin.listen")
        })?;
        Ok(Self { listener, access: Arc::new(access) })
    }

    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access)
    }

    /// Serves clients until it is dropped.
    pub async fn serve(self, router: Router) {
        let slots = Arc::new(Semaphore::new(SERVED));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (access, handshakes) = (self.access(), Arc::clone(&handshakes));
                    tokio::spawn(greet(stream, access, router.clone(), slot, handshakes));
                }
                Err(error) => pause(&error).await,
            }
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection to the API");
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// TLS first, where that is wanted.
async fn greet(
    stream: TcpStream,
    access: Arc<Access>,
    router: Router,
    slot: OwnedSemaphorePermit,
    handshakes: Arc<Semaphore>,
) {
    let Ok(addr) = stream.peer_addr() else { return };
    // Answers are small, and somebody waits for each.
    let _ = stream.set_nodelay(true);
    let tls = access.tls();
    let peer = Peer::Remote { addr, tls: tls.is_some(), access };
    let Some(tls) = tls else { return serve(stream, peer, router, slot).await };
    let shaken = timeout(HEAD, async {
        // Who waits for its turn has sent nothing that would be lost.
        let _turn = handshakes.acquire().await;
        TlsAcceptor::from(tls).accept(stream).await
    });
    match shaken.await {
        Ok(Ok(stream)) => serve(stream, peer, router, slot).await,
        Ok(Err(error)) => tracing::debug!(%addr, %error, "API: no TLS"),
        Err(_) => tracing::debug!(%addr, "API: no TLS within {HEAD:?}"),
    }
}

/// Serves one connection to its end.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Peer,
    router: Router,
    slot: OwnedSemaphorePermit,
) {
    let inner = TowerToHyperService::new(router);
    let from = peer.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(from.clone());
        inner.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Stalled::new(stream, STALLED)), service);
    // A client that goes away is none of our trouble; one that is cut is told of where somebody looks for it.
    if let Err(error) = connection.await {
        tracing::debug!(?peer, %error, "API: a connection was cut");
    }
    drop(slot);
}

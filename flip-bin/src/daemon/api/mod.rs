//! The HTTP API: on the Unix socket, and by TCP where the config says so. `docs/api.md` says how it is used.
//!
//! ```text
//!  listen ─► guard (who asks, may they, what is written down) ─► routes ─► Handle ─► the loop
//! ```
//!
//! It runs beside the loop on one thread: handlers only wait for the loop's answers, and what takes long (files,
//! large answers) is done on others.

mod access;
mod edit;
mod error;
mod events;
mod guard;
mod health;
mod json;
mod link;
mod listen;
mod look;
mod page;
mod see;
mod stalled;
mod stream;
mod wish;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::Router;
use axum::routing::get;
use flip_systems::Handle;
use tokio::sync::{Semaphore, watch};
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use access::{Access, certificates};
pub use error::{ErrorBody, ErrorDetail, UNACKNOWLEDGED};
pub use events::Lost;
pub use listen::{Socket, Tcp};
pub use wish::Done;

use super::reload::Reload;

/// What handlers need.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

pub struct Inner {
    node: Handle,
    reload: Arc<Reload>,
    /// The status as a line, after each change.
    changes: watch::Receiver<Arc<str>>,
    /// Room for streams.
    streams: Arc<Semaphore>,
    /// Requests that were refused by the guard.
    refused: AtomicU64,
}

impl std::ops::Deref for Api {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Api {
    pub fn new(node: Handle, reload: Arc<Reload>, changes: watch::Receiver<Arc<str>>) -> Self {
        let streams = Arc::new(Semaphore::new(stream::STREAMS));
        Self(Arc::new(Inner { node, reload, changes, streams, refused: AtomicU64::new(0) }))
    }

    /// All paths, behind the guard.
    pub fn router(self) -> Router {
        let (router, document) = paths().split_for_parts();
        let document = json::bytes(&document);
        let document = move || {
            let document = document.clone();
            async move { ([(axum::http::header::CONTENT_TYPE, "application/json")], document) }
        };
        router
            .route("/openapi.json", get(document))
            .fallback(error::no_path)
            .method_not_allowed_fallback(error::no_method)
            .layer(axum::middleware::from_fn_with_state(self.clone(), guard::guard))
            .with_state(self)
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "flip",
        description = "Looks into a running cluster and changes it. Every answer is of the server that is asked.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    components(schemas(error::ErrorBody, error::ErrorDetail))
)]
struct Info;

/// All paths that are in the document.
fn paths() -> OpenApiRouter<Api> {
    let mut document: Document = Info::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    OpenApiRouter::with_openapi(document)
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(look::status))
        .routes(routes!(look::watch))
        .routes(routes!(look::members))
        .routes(routes!(look::member))
        .routes(routes!(look::items))
        .routes(routes!(look::item))
        .routes(routes!(look::systems))
        .routes(routes!(events::events))
        .routes(routes!(page::page))
        .routes(routes!(see::why))
        .routes(routes!(see::moves))
        .routes(routes!(see::plan_now, see::plan))
        .routes(routes!(see::metrics))
        .routes(routes!(look::keys, wish::key_add))
        .routes(routes!(edit::edit))
        .routes(routes!(edit::catalog))
        .routes(routes!(link::list, link::add))
        .routes(routes!(link::get, link::remove, link::patch))
        .routes(routes!(link::failover))
        .routes(routes!(wish::key_use))
        .routes(routes!(wish::key_remove))
        .routes(routes!(wish::drain))
        .routes(routes!(wish::undrain))
        .routes(routes!(wish::confirm_released))
        .routes(routes!(wish::retry))
        .routes(routes!(wish::announce))
        .routes(routes!(wish::announce_all))
        .routes(routes!(wish::reload))
}

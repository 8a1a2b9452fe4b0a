//! `post` hooks: what runs once after a whole plan is done, with all that it changed here.

use std::future::Future;
use std::sync::Arc;

use flip_core::PostCall;

use crate::system::{HookFuture, Systems};

/// What a name under `post` stands for.
pub trait Post: Send + Sync {
    /// Runs once. The future does nothing before it is polled; `Err` carries one line for people.
    fn run(&self, system: &flip_core::config::System, call: &PostCall) -> HookFuture;
}

/// A function is one, too.
impl<F: Fn(&flip_core::config::System, &PostCall) -> HookFuture + Send + Sync> Post for F {
    fn run(&self, system: &flip_core::config::System, call: &PostCall) -> HookFuture {
        self(system, call)
    }
}

/// The `post` hook of one system.
pub(crate) struct PostOf {
    pub(crate) system: flip_core::config::System,
    pub(crate) post: Arc<dyn Post>,
}

impl Systems {
    /// Runs a `post` hook until it ends or `call.timeout` has passed. The future borrows nothing and may be
    /// spawned; dropping it ends the hook.
    ///
    /// # Errors
    /// One line for people, for `Input::HookDone`.
    pub fn post(&self, call: PostCall) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let hook = self.posts.get(&call.system).map(|of| of.post.run(&of.system, &call));
        async move {
            let Some(hook) = hook else {
                return Err(format!("system {} of this server has no post hook", call.system));
            };
            match tokio::time::timeout(call.timeout, hook).await {
                Ok(result) => result,
                Err(_) => Err(format!("post took longer than {:?} and was ended", call.timeout)),
            }
        }
    }
}

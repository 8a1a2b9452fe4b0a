//! Ten jobs over three nodes in one process; one node is lost, and the others take its jobs.
//!
//! `cargo run -p flip-systems --example embed`

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::future::ready;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};

use flip_core::config::{Overrides, Source};
use flip_systems::flip::{Flip, Handle};
use flip_systems::system::{Context, HookFuture, ObserveFuture};
use flip_systems::{Registry, System};
use tokio::sync::watch;

/// Who runs which job: positions of jobs, and names of nodes.
pub type Board = BTreeSet<(usize, &'static str)>;

/// A job that runs. A real one would be a task that ends when this is dropped.
struct Job(usize, &'static str, watch::Sender<Board>);

impl Drop for Job {
    fn drop(&mut self) {
        self.2.send_if_modified(|board| board.remove(&(self.0, self.1)));
    }
}

/// The jobs of one node. They are dropped with it, so they end with it.
struct Jobs {
    node: &'static str,
    board: watch::Sender<Board>,
    running: Arc<Mutex<BTreeMap<usize, Job>>>,
}

impl System for Jobs {
    fn alive(&self, job: usize, _: &Context) -> HookFuture {
        let (node, board, running) = (self.node, self.board.clone(), Arc::clone(&self.running));
        Box::pin(async move {
            board.send_if_modified(|board| board.insert((job, node)));
            running.lock().unwrap().entry(job).or_insert_with(|| Job(job, node, board));
            Ok(())
        })
    }

    fn down(&self, job: usize, _: &Context) -> HookFuture {
        let running = Arc::clone(&self.running);
        Box::pin(async move {
            drop(running.lock().unwrap().remove(&job));
            Ok(())
        })
    }

    fn observe(&self) -> ObserveFuture {
        let here = self.running.lock().unwrap().keys().copied().collect();
        Box::pin(ready(Ok(here)))
    }
}

async fn start(
    node: &'static str,
    text: &str,
    board: watch::Sender<Board>,
) -> Result<Handle, Box<dyn Error>> {
    let mut registry = Registry::default();
    registry.register_with("job_up", "job_down", move |_| Jobs {
        node,
        board: board.clone(),
        running: Arc::default(),
    });
    let overrides = Overrides { id: Some(node), ..Overrides::default() };
    let (builder, _warnings) = Flip::from_text(&Source { file: "jobs.json", text }, &overrides, registry)?;
    let flip = builder.start().await?;
    let handle = flip.handle();
    tokio::spawn(flip.run());
    Ok(handle)
}

/// Waits until each of ten jobs runs once, and each of `nodes` runs some; gives what it saw.
async fn all_run(board: &watch::Sender<Board>, nodes: &[&'static str]) -> Result<Board, Box<dyn Error>> {
    let wanted = |board: &Board| {
        let jobs: BTreeSet<_> = board.iter().map(|(job, _)| *job).collect();
        let on: BTreeSet<_> = board.iter().map(|(_, node)| *node).collect();
        board.len() == 10 && jobs.len() == 10 && on.iter().eq(nodes)
    };
    Ok(board.subscribe().wait_for(wanted).await?.clone())
}

/// Gives what ran where with three nodes, and after one of them was lost.
pub async fn run() -> Result<(Board, Board), Box<dyn Error>> {
    // Three ports that are free now, and so most likely in a moment.
    let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0"));
    let mut ports = Vec::new();
    for socket in sockets {
        ports.push(socket?.local_addr()?.port());
    }
    let names: Vec<_> = (0..10).map(|job| format!("job {job}")).collect();
    let text = serde_json::json!({
        "profile": "fast",
        "servers": {
            "a": {"ip": "127.0.0.1", "port": ports[0], "systems": ["job"]},
            "b": {"ip": "127.0.0.1", "port": ports[1], "systems": ["job"]},
            "c": {"ip": "127.0.0.1", "port": ports[2], "systems": ["job"]},
        },
        // By default the handlers of a system are those that begin with its name: job_up, job_down.
        "cluster": {"system": {"job": {"type": "shard", "data": names}}},
    });
    let text = text.to_string();
    let board = watch::Sender::new(Board::new());
    let a = start("a", &text, board.clone()).await?;
    let b = start("b", &text, board.clone()).await?;
    let c = start("c", &text, board.clone()).await?;
    let before = all_run(&board, &["a", "b", "c"]).await?;
    // As if its machine had lost its power: nobody is told.
    b.abort();
    let after = all_run(&board, &["a", "c"]).await?;
    for node in [a, c] {
        node.leave();
        node.ended().await;
    }
    Ok((before, after))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (before, after) = run().await?;
    for (what, board) in [("three nodes", before), ("b is lost", after)] {
        println!("{what}:");
        for node in ["a", "b", "c"] {
            let jobs: Vec<_> = board.iter().filter(|(_, on)| *on == node).map(|(job, _)| *job).collect();
            println!("  {node}: {jobs:?}");
        }
    }
    Ok(())
}

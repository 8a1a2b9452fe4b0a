//! Ten jobs over three nodes in one process; one node is lost, and the others take its jobs.
//!
//! `cargo run -p flip-systems --example embed`

use std::collections::BTreeSet;
use std::error::Error;
use std::future::pending;
use std::net::UdpSocket;

use flip_systems::{Flip, Handle, Registry, flip};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Who runs which job: positions of jobs, and names of nodes.
pub type Board = BTreeSet<(usize, &'static str)>;

/// A job at work: on the board until it is dropped, because it moves away or its node is lost.
struct Job(usize, &'static str, watch::Sender<Board>);

impl Drop for Job {
    fn drop(&mut self) {
        self.2.send_if_modified(|board| board.remove(&(self.0, self.1)));
    }
}

/// Starts a node. A real job would do something where these wait for ever.
async fn start(id: &'static str, config: &str, board: &watch::Sender<Board>) -> Result<Handle, flip::Error> {
    let (mut registry, board) = (Registry::default(), board.clone());
    registry.register_tasks("job", move |task| {
        board.send_if_modified(|board| board.insert((task.position, id)));
        let job = Job(task.position, id, board.clone());
        async move {
            let _job = job;
            pending().await
        }
    });
    Flip::node(id, config, registry)?.spawn().await
}

/// Waits until each of ten jobs runs once, and each of `nodes` runs some; gives what it saw.
async fn all_run(board: &watch::Sender<Board>, nodes: &[&str]) -> Result<Board, Box<dyn Error>> {
    let wanted = |board: &Board| {
        let jobs: BTreeSet<_> = board.iter().map(|(job, _)| *job).collect();
        let on: BTreeSet<_> = board.iter().map(|(_, node)| *node).collect();
        board.len() == 10 && jobs.len() == 10 && on.iter().eq(nodes)
    };
    Ok(board.subscribe().wait_for(wanted).await?.clone())
}

/// Gives what ran where with three nodes, and after one of them was lost.
pub async fn run() -> Result<(Board, Board), Box<dyn Error>> {
    let server = || -> Result<Value, Box<dyn Error>> {
        // A port that is free now, and so most likely in a moment.
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(json!({"ip": "127.0.0.1", "port": port, "systems": ["job"]}))
    };
    let config = json!({
        "profile": "fast",
        "servers": {"a": server()?, "b": server()?, "c": server()?},
        "cluster": {"system": {"job": {"data": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}}},
    });
    let (config, board) = (config.to_string(), watch::Sender::new(Board::new()));
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(start(id, &config, &board).await?);
    }
    let before = all_run(&board, &["a", "b", "c"]).await?;
    nodes.remove(1).abort(); // As if its machine had lost its power: nobody is told.
    let after = all_run(&board, &["a", "c"]).await?;
    for node in nodes {
        node.leave();
        node.ended().await;
    }
    Ok((before, after))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (before, after) = run().await?;
    println!("three nodes: {before:?}\nb is lost:   {after:?}");
    Ok(())
}

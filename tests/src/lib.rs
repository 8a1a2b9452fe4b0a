//! How flip is tried out for real: a lab of network namespaces, a cluster on loopback, a client that
//! counts what it loses, and the benchmarks.

pub mod busy;
pub mod catalog_bench;
pub mod cluster;
pub mod failover;
pub mod flood;
pub mod hooks_bench;
pub mod keepalived;
pub mod lab;
pub mod local;
pub mod matrix;
pub mod membership;
pub mod membership_bench;
pub mod needs;
pub mod postgres;
pub mod probe;
pub mod spread;
pub mod until;
pub mod vip_bench;

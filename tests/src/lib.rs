pub mod cluster;
pub mod keepalived;
pub mod lab;
pub mod local;
pub mod membership;
pub mod membership_bench;
pub mod probe;

//! What travels: the seal around it, the messages in it, and the one module that knows the encoding.

pub mod codec;
#[cfg(test)]
mod golden;
pub mod join;
pub mod message;
pub mod replay;
pub mod ring;
pub mod seal;

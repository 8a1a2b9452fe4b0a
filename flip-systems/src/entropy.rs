//! The kernel's random source, for seeds and keys.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// Fills a buffer from the kernel's random source.
///
/// # Errors
/// Those of getrandom(2); none where the machine is up.
pub fn entropy(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let got = getrandom(&mut *buffer, GetRandomFlags::empty())?;
        buffer = &mut buffer[got..];
    }
    Ok(())
}

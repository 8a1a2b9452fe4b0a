//! A keyed checksum with the shape of the cipher. Sealing and opening would be most of the time of a
//! simulation, and what they promise (a datagram that was touched does not open) the checksum promises as
//! well against anybody who does not set out to break it, as the simulated attackers don't.
//!
//! Only the harness compiles it, and only a simulation chooses it; one seed in ten keeps the real cipher.

use std::cell::Cell;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, Error, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};

use super::trace::Trace;
use crate::planted::{Bug, planted};

thread_local! {
    static CHEAP: Cell<bool> = const { Cell::new(false) };
}

/// Which seal the sealers and openers of this thread that are made from now on use.
pub(super) fn choose(cheap: bool) {
    CHEAP.set(cheap);
}

/// Takes the place of the cipher in `wire::seal`.
pub(crate) enum Cipher {
    Real(Box<XChaCha20Poly1305>),
    Cheap(u64),
}

impl Cipher {
    pub(crate) fn new(key: &Key) -> Self {
        if CHEAP.get() {
            let mut trace = Trace::default();
            trace.bytes(key);
            Self::Cheap(trace.digest())
        } else {
            Self::Real(Box::new(XChaCha20Poly1305::new(key)))
        }
    }

    pub(crate) fn encrypt_inout_detached(
        &self,
        nonce: &XNonce,
        header: &[u8],
        text: InOutBuf<'_, '_, u8>,
    ) -> Result<Tag, Error> {
        match self {
            Self::Real(cipher) => cipher.encrypt_inout_detached(nonce, header, text),
            Self::Cheap(key) => Ok(checksum(*key, header, text.get_in())),
        }
    }

    pub(crate) fn decrypt_inout_detached(
        &self,
        nonce: &XNonce,
        header: &[u8],
        text: InOutBuf<'_, '_, u8>,
        tag: &Tag,
    ) -> Result<(), Error> {
        match self {
            Self::Real(cipher) => cipher.decrypt_inout_detached(nonce, header, text, tag),
            Self::Cheap(_) if planted(Bug::SealUnchecked) => Ok(()),
            Self::Cheap(key) if checksum(*key, header, text.get_in()) == *tag => Ok(()),
            Self::Cheap(_) => Err(Error),
        }
    }
}

fn checksum(key: u64, header: &[u8], text: &[u8]) -> Tag {
    let mut trace = Trace::default();
    trace.word(key);
    trace.bytes(header);
    trace.bytes(text);
    let first = trace.digest();
    trace.word(key);
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&first.to_le_bytes());
    tag[8..].copy_from_slice(&trace.digest().to_le_bytes());
    tag.into()
}

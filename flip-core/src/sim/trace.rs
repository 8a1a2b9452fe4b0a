//! A digest of everything that happened: cheap, and not for secrets. Equal digests, equal runs.

/// Folds words of eight bytes: a multiplication, and a shift that brings its high bits down, so that no flip
/// of neighbouring bits undoes another.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace(u64);

impl Trace {
    pub(super) fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.word(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(chunks.remainder()) {
            *to = *from;
        }
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    pub(super) const fn digest(&self) -> u64 {
        self.0
    }
}

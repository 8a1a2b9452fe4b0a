//! What outlives the process: how a generation and a key ring look on disk. The driver reads and writes
//! the files; what it reads may be anything.

use std::fmt;

use crate::config::ClusterKey;
use crate::wire::ring::Ring;

/// Bytes of a stored file at most; what is longer is damaged.
pub const LONGEST: usize = 1024;

/// A stored file is not what this code writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("damaged, or written by a later release")
    }
}

impl std::error::Error for Damaged {}

/// A generation from its file: a number alone in its line.
///
/// # Errors
/// When it is none, or so large that it leaves no room to grow and cannot have come from this code.
pub fn generation(bytes: &[u8]) -> Result<u64, Damaged> {
    let text = std::str::from_utf8(bytes).map_err(|_| Damaged)?;
    let number = text.trim_end().parse::<u64>().map_err(|_| Damaged)?;
    if (1..u64::MAX / 2).contains(&number) { Ok(number) } else { Err(Damaged) }
}

/// The key ring as it is stored: text with a checksum, to be kept from other users' eyes.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKeys {
    /// Hash of the key that the config had when this was stored.
    config: [u8; 32],
    ring: Ring,
}

impl fmt::Debug for StoredKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ring.fmt(f)
    }
}

const FIRST_LINE: &str = "flip keys 1";

impl StoredKeys {
    /// What is to be stored by a node whose config has this key.
    #[must_use]
    pub fn new(config: &ClusterKey, ring: Ring) -> Self {
        Self { config: fingerprint(config), ring }
    }

    /// The ring to go on with: the stored one, unless the key in the config was replaced since by one
    /// that is not in it. That is how an operator begins anew.
    #[must_use]
    pub fn ring_for(stored: Option<Self>, config: &ClusterKey) -> Ring {
        stored
            .filter(|stored| stored.config == fingerprint(config) || stored.ring.keys().contains(config))
            .map_or_else(|| Ring::new(config.clone()), |stored| stored.ring)
    }

    /// The file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!(
            "{FIRST_LINE}\nconfig {}\nversion {}\nuse {:02x}\n",
            hex(&self.config),
            self.ring.stamp().version,
            self.ring.active(),
        );
        for key in self.ring.keys() {
            text.push_str(&format!("key {}\n", hex(&key.0)));
        }
        text.push_str(&format!("sum {}\n", sum(&text)));
        text.into_bytes()
    }

    /// What was stored.
    ///
    /// # Errors
    /// When the file is not one that [`StoredKeys::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        if bytes.len() > LONGEST {
            return Err(Damaged);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Damaged)?;
        let (content, sum_line) = text.split_at(text.find("sum ").ok_or(Damaged)?);
        if sum_line.strip_prefix("sum ").and_then(|sum| sum.strip_suffix('\n')) != Some(&sum(content)) {
            return Err(Damaged);
        }
        let mut lines = content.lines();
        let mut word = |name: &str| -> Option<&str> { lines.next()?.strip_prefix(name)?.strip_prefix(' ') };
        if word("flip") != FIRST_LINE.strip_prefix("flip ") {
            return Err(Damaged);
        }
        let config = word("config").and_then(unhex).ok_or(Damaged)?;
        let version = word("version").and_then(|number| number.parse().ok()).ok_or(Damaged)?;
        let active = word("use").and_then(|id| u8::from_str_radix(id, 16).ok()).ok_or(Damaged)?;
        let keys = lines.map(|line| unhex(line.strip_prefix("key ")?)).collect::<Option<Vec<_>>>();
        let ring = Ring::from_parts(version, active, keys.ok_or(Damaged)?).ok_or(Damaged)?;
        Ok(Self { config, ring })
    }
}

fn fingerprint(key: &ClusterKey) -> [u8; 32] {
    blake3::derive_key("flip config key fingerprint v1", &key.0)
}

fn sum(text: &str) -> String {
    hex(&blake3::hash(text.as_bytes()).as_bytes()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey([byte; 32])
    }

    fn stored() -> StoredKeys {
        StoredKeys::new(&key(1), Ring::new(key(1)).with(key(2)).expect("room"))
    }

    #[test]
    fn what_is_stored_is_read() {
        let bytes = stored().to_bytes();
        assert_eq!(StoredKeys::from_bytes(&bytes), Ok(stored()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(StoredKeys::from_bytes(&damaged), Err(Damaged), "byte {at}");
            assert_eq!(StoredKeys::from_bytes(&bytes[..at]), Err(Damaged), "{at} bytes");
        }
        assert_eq!(StoredKeys::from_bytes(&[bytes.clone(), bytes].concat()), Err(Damaged));
    }

    #[test]
    fn the_stored_ring_counts_until_the_config_gets_another_key() {
        let (one, two) = (key(1), key(2));
        let ring = Ring::new(one.clone()).with(two.clone()).and_then(|ring| ring.using(ring.active()));
        let ring = ring.expect("a ring");
        let rotated = ring.using(ring.ids().nth(1).expect("two")).expect("there");
        let rotated = rotated.without(ring.active()).expect("not in use");
        let stored = Some(StoredKeys::new(&one, rotated.clone()));
        assert_eq!(StoredKeys::ring_for(stored.clone(), &one), rotated, "the removed key stays removed");
        assert_eq!(StoredKeys::ring_for(stored.clone(), &two), rotated, "the config follows the ring");
        assert_eq!(StoredKeys::ring_for(stored, &key(3)), Ring::new(key(3)), "the operator begins anew");
        assert_eq!(StoredKeys::ring_for(None, &one), Ring::new(one));
    }

    #[test]
    fn generations() {
        assert_eq!(generation(b"12\n"), Ok(12));
        for damage in ["", "0", "12x", "-1", "18446744073709551615", "\u{0}"] {
            assert_eq!(generation(damage.as_bytes()), Err(Damaged), "{damage:?}");
        }
    }
}

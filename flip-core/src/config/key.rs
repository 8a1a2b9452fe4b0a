//! The cluster's key: 32 bytes as they are, or a passphrase made slow to guess.

use argon2::{Algorithm, Argon2, Error, Params, Version};

use super::problem::Problems;
use super::raw::clip;
use super::source::At;
use super::written::Written;
use super::{ClusterKey, bounds};

/// What the config says about the key, before anything costly is done with it.
pub(super) enum Secret<'a> {
    Key(ClusterKey),
    Passphrase(&'a [u8]),
    None,
}

/// Which secret counts; `key_file` is the content of the file that the key of that name names.
pub(super) fn choose<'a>(
    written: &'a Written,
    key_file: Option<&'a [u8]>,
    problems: &mut Problems,
) -> Secret<'a> {
    let Some(path) = &written.key_file else {
        return match &written.key {
            Some(key) if !key.value.is_empty() => read(key.value.as_bytes(), &key.at, problems),
            Some(_) | None if written.key_given && written.key.is_none() => Secret::None,
            Some(_) | None => {
                let at = written.key.as_ref().map_or(&written.at, |key| &key.at);
                let message = "no key: everyone on the network can forge messages of this cluster";
                problems.warning(
                    at,
                    message,
                    "set `key` or `key_file`, on every server alike, to what `flip keygen` prints",
                );
                Secret::None
            }
        };
    };
    if written.key_given {
        let message = "found `key` and `key_file`, expected one of them";
        problems.error_help(&path.at, message, "remove `key`, so that the config may be readable by others");
        return Secret::None;
    }
    let Some(content) = key_file.map(<[u8]>::trim_ascii) else {
        let message = format!("the key file {} was not read", clip(&path.value));
        problems.error_help(&path.at, message, "it must exist and be readable by the user that runs flip");
        return Secret::None;
    };
    if content.is_empty() || content.len() > bounds::PASSPHRASE {
        let message = format!(
            "the key file {} holds {} bytes, expected 64 hexadecimal digits",
            clip(&path.value),
            content.len(),
        );
        problems.error_help(&path.at, message, "write into it what `flip keygen` prints");
        return Secret::None;
    }
    read(content, &path.at, problems)
}

/// The key itself: costs some 20 ms and 19 MiB for a passphrase, nothing otherwise.
///
/// # Errors
/// When the memory cannot be had.
pub(super) fn derive(secret: Secret, cluster_id: &str) -> Result<ClusterKey, Error> {
    Ok(match secret {
        Secret::Key(key) => key,
        Secret::Passphrase(passphrase) => {
            let salt = blake3::derive_key("flip passphrase salt v1", cluster_id.as_bytes());
            let mut key = ClusterKey([0; 32]);
            // Written out, because a new default of the library would split a cluster in two.
            let params = Params::new(19 * 1024, 2, 1, Some(32))?;
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            argon2.hash_password_into(passphrase, &salt, &mut key.0)?;
            key
        }
        Secret::None => ClusterKey(blake3::derive_key("flip empty key v1", cluster_id.as_bytes())),
    })
}

fn read<'a>(text: &'a [u8], at: &At, problems: &mut Problems) -> Secret<'a> {
    if let Some(key) = from_hex(text) {
        return Secret::Key(key);
    }
    let found = match text.len() {
        64 => "this key has 64 characters, but they are not all hexadecimal digits",
        _ => "this key is not 64 hexadecimal digits",
    };
    let message = format!(
        "{found}: it is taken as a passphrase, which whoever records a datagram can try to guess offline"
    );
    problems.warning(at, message, "replace it, on every server alike, by what `flip keygen` prints");
    Secret::Passphrase(text)
}

fn from_hex(text: &[u8]) -> Option<ClusterKey> {
    if text.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut key = ClusterKey([0; 32]);
    for (byte, pair) in key.0.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_the_bytes() {
        let text = "00ff1122334455667788990aabbccddeeffedcba98765432100123456789abCD";
        let key = from_hex(text.as_bytes()).expect("64 digits");
        assert_eq!(&key.0[..4], [0x00, 0xff, 0x11, 0x22]);
        assert_eq!(&key.0[30..], [0xab, 0xcd]);
        assert!(from_hex(&text.as_bytes()[1..]).is_none());
        assert!(from_hex(text.replace('f', "g").as_bytes()).is_none());
    }

    #[test]
    fn a_passphrase_is_salted_with_the_cluster_id() {
        let key = |phrase: &[u8], id| derive(Secret::Passphrase(phrase), id).expect("19 MiB").0;
        assert_eq!(key(b"secret", "flip"), key(b"secret", "flip"));
        assert_ne!(key(b"secret", "flip"), key(b"secret", "other"));
        assert_ne!(key(b"secret", "flip"), key(b"Secret", "flip"));
        let none = |id| derive(Secret::None, id).expect("no memory needed").0;
        assert_ne!(none("flip"), none("other"));
    }
}

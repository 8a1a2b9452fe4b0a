//! The key ring on disk: a file that its owner alone may read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::Context;
use flip_core::stored::{LONGEST, StoredKeys};

use super::State;

impl State {
    /// Replaces the stored keys durably.
    pub fn store_keys(&self, keys: &StoredKeys) -> anyhow::Result<()> {
        let path = self.keys_file();
        self.replace_keys(keys).with_context(|| format!("cannot store the keys in {}", path.display()))
    }

    fn replace_keys(&self, keys: &StoredKeys) -> io::Result<()> {
        let new = self.dir.join("keys.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&keys.to_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, self.keys_file())?;
        File::open(&self.dir)?.sync_all()
    }

    /// The keys that an earlier life stored. A damaged file is set aside under another name: the key of the
    /// config is left, and the others know the rest.
    pub fn keys(&self) -> anyhow::Result<Option<StoredKeys>> {
        let path = self.keys_file();
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(LONGEST as u64 + 1).read_to_end(&mut bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        }
        .with_context(|| format!("cannot read {}", path.display()))?;
        match StoredKeys::from_bytes(&bytes) {
            Ok(keys) => Ok(Some(keys)),
            Err(error) => {
                let name = |n: usize| self.dir.join(format!("keys.damaged.{n}"));
                let free = (1..1000).map(name).find(|path| !path.exists());
                let aside = free.unwrap_or_else(|| name(1000));
                std::fs::rename(&path, &aside)
                    .with_context(|| format!("cannot set {} aside", path.display()))?;
                tracing::warn!(
                    file = %path.display(), set_aside = %aside.display(),
                    "the stored keys are {error}; going on with the key of the config"
                );
                Ok(None)
            }
        }
    }

    fn keys_file(&self) -> PathBuf {
        self.dir.join("keys")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use flip_core::config::ClusterKey;
    use flip_core::wire::ring::Ring;

    use super::*;

    #[test]
    fn keys_are_kept_from_others_and_damage_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert_eq!(state.keys().unwrap(), None);
        let key = ClusterKey([7; 32]);
        let keys = StoredKeys::new(&key, Ring::new(key.clone()).with(ClusterKey([8; 32])).unwrap());
        state.store_keys(&keys).unwrap();
        assert_eq!(state.keys().unwrap(), Some(keys));
        let mode = std::fs::metadata(dir.path().join("keys")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(dir.path().join("keys"), "flip keys 1\n").unwrap();
        assert_eq!(state.keys().unwrap(), None);
        assert_eq!(std::fs::read_to_string(dir.path().join("keys.damaged.1")).unwrap(), "flip keys 1\n");
        assert_eq!(state.keys().unwrap(), None, "once");
    }
}

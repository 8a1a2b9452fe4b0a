//! `flip key`: the keys of the cluster, changed while it runs.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use flip_core::config::ClusterKey;
use flip_core::status::{KeyStatus, Status};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::{Zeroize, Zeroizing};

use crate::Outcome;
use crate::cli::{AddArgs, IdArgs, KeyCommand, KeygenArgs, ListArgs};
use crate::client::Client;
use crate::operate::wish;

/// Bytes of a key file at most.
const LONGEST: u64 = 4096;

/// A key as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexKey(pub ClusterKey);

impl fmt::Debug for HexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for HexKey {
    type Error = String;

    fn try_from(mut text: String) -> Result<Self, String> {
        let mut key = ClusterKey([0; 32]);
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        });
        let bytes: Option<Vec<u8>> = pairs.collect();
        let found = text.len();
        text.zeroize();
        let mut bytes = bytes.filter(|bytes| bytes.len() == key.0.len()).ok_or_else(|| {
            format!(
                "a key is 64 hexadecimal digits, as `flip keygen` prints, and these are {found} characters"
            )
        })?;
        key.0.copy_from_slice(&bytes);
        bytes.zeroize();
        Ok(Self(key))
    }
}

impl From<HexKey> for String {
    fn from(key: HexKey) -> Self {
        key.0.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The id of a key as two hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(pub u8);

impl std::str::FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u8::from_str_radix(text, 16).ok().filter(|_| digits);
        id.map(Self)
            .ok_or_else(|| "a key's id is two hexadecimal digits, as `flip key list` shows".to_owned())
    }
}

impl TryFrom<String> for KeyId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        format!("{:02x}", id.0)
    }
}

pub fn run(command: KeyCommand) -> Outcome {
    match command {
        KeyCommand::Add(args) => add(args),
        KeyCommand::List(args) => list(&args),
        KeyCommand::Use(IdArgs { key, daemon }) => {
            wish(&Client::of(&daemon)?, Method::POST, &format!("/v1/keys/{}/use", String::from(key)), None)
        }
        KeyCommand::Remove(IdArgs { key, daemon }) => {
            wish(&Client::of(&daemon)?, Method::DELETE, &format!("/v1/keys/{}", String::from(key)), None)
        }
    }
}

fn random() -> anyhow::Result<HexKey> {
    let mut key = ClusterKey([0; 32]);
    flip_systems::entropy(&mut key.0)?;
    Ok(HexKey(key))
}

/// `flip keygen`.
pub fn generate(args: &KeygenArgs) -> Outcome {
    let digits = Zeroizing::new(String::from(random()?));
    let Some(file) = &args.out else {
        writeln!(io::stdout(), "{}", *digits)?;
        return Ok(ExitCode::SUCCESS);
    };
    let shown = file.display();
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut open = open.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow!("{shown} is there already; a key that is in use would be lost: remove it first, or name another")
        }
        _ => anyhow!(error).context(format!("cannot write {shown}")),
    })?;
    writeln!(open, "{}", *digits)
        .and_then(|()| open.sync_all())
        .with_context(|| format!("cannot write {shown}"))?;
    Ok(ExitCode::SUCCESS)
}

fn add(args: AddArgs) -> Outcome {
    let key = match &args.file {
        Some(file) => read(file)?,
        None => random()?,
    };
    let body = json!({ "key": String::from(key.clone()) });
    let code = wish(&Client::of(&args.daemon)?, Method::POST, "/v1/keys", Some(&body))?;
    if args.file.is_none() {
        // It goes into the config, or nobody who starts without a state dir can ever join again.
        writeln!(io::stdout(), "{}", String::from(key))?;
    }
    Ok(code)
}

/// The key in a file, or on standard input for `-`.
fn read(file: &Path) -> anyhow::Result<HexKey> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().take(LONGEST).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(LONGEST).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read the key in {}", file.display()))?;
    let key = HexKey::try_from(text.trim().to_owned());
    text.zeroize();
    match key {
        Ok(key) => Ok(key),
        Err(error) => bail!("{}: {error}", file.display()),
    }
}

fn list(args: &ListArgs) -> Outcome {
    let status: Status = Client::of(&args.daemon)?.get("/v1/status")?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&status.keys)?)?;
    } else {
        write!(out, "{}", table(&status.keys, status.members.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(keys: &[KeyStatus], servers: usize) -> String {
    let mut text = String::from("KEY  USE     CONFIG  KNOWN TO\n");
    for key in keys {
        let used = if key.in_use { "seals" } else { "opens" };
        let config = if key.in_config { "yes" } else { "no" };
        let known = if key.servers.len() == servers { "all".to_owned() } else { key.servers.join(", ") };
        text.push_str(&format!("{:<4} {used:<7} {config:<7} {known}\n", key.id));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_are_digits_and_nothing_else() {
        let digits = "00ff1122334455667788990aabbccddeeffedcba98765432100123456789abcd";
        let key = HexKey::try_from(digits.to_owned()).unwrap();
        assert_eq!(String::from(key.clone()), digits);
        assert!(!format!("{key:?}").contains("ff11"));
        for wrong in ["", "00ff", &digits[1..], &digits.replace('f', "g"), &format!("{digits}00")] {
            assert!(HexKey::try_from((*wrong).to_owned()).unwrap_err().contains("64 hexadecimal"), "{wrong}");
        }
        assert_eq!("7f".parse(), Ok(KeyId(0x7f)));
        for wrong in ["", "7", "+7", "7g", "07f", "é"] {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_table_tells_who_lacks_a_key() {
        let key = |id: &str, in_use, servers: &[&str]| KeyStatus {
            id: id.into(),
            in_use,
            in_config: in_use,
            servers: servers.iter().map(ToString::to_string).collect(),
        };
        let table = table(&[key("7f", true, &["a", "b", "c"]), key("01", false, &["a", "c"])], 3);
        assert_eq!(
            table,
            "KEY  USE     CONFIG  KNOWN TO\n7f   seals   yes     all\n01   opens   no      a, c\n"
        );
    }
}

//! How a catalog looks on disk: a first line that names the format, then frames, each with its length and its
//! checksum. What is added later is appended as one frame, so that a power cut can tear nothing but the last.

use super::entry::Entry;
use super::file::File;
use super::store::Catalog;
use crate::limits;
use crate::stored::Damaged;
use crate::wire::codec;

/// The first line of the file.
const MAGIC: &[u8] = b"flip catalog 1\n";
/// Before the content of a frame: its length, its checksum, and the checksum of these two.
const HEAD: usize = 4 + 16 + 4;

/// A page of what is to be remembered: a frame holds one or more.
#[derive(bincode::Encode, bincode::Decode)]
struct Page {
    /// Version and text of a file layer that replaces the one before.
    file: Option<(u64, String)>,
    floor: u64,
    /// As [`Catalog::is_complete`].
    complete: bool,
    entries: Vec<Entry>,
}

/// A whole file that means this catalog.
#[must_use]
pub fn whole(catalog: &Catalog) -> Vec<u8> {
    let entries: Vec<_> = catalog.records().map(|(key, record)| (key.clone(), record.clone())).collect();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(frame(Some(catalog.file()), catalog, entries));
    bytes
}

/// What is to be appended to the file of a catalog so that it means these changes as well.
#[must_use]
pub fn frame(file: Option<&File>, catalog: &Catalog, entries: Vec<Entry>) -> Vec<u8> {
    let (floor, complete) = (catalog.floor(), catalog.is_complete());
    let mut content = Vec::new();
    let file = file.map(|file| (file.version, file.text.to_string()));
    put_page(&Page { file, floor, complete, entries: Vec::new() }, &mut content);
    let (mut page, mut size) = (Vec::new(), 0);
    for entry in entries {
        size += size_of_entry(&entry);
        page.push(entry);
        if size > limits::CATALOG_PAGE {
            put_page(&Page { file: None, floor, complete, entries: std::mem::take(&mut page) }, &mut content);
            size = 0;
        }
    }
    if !page.is_empty() {
        put_page(&Page { file: None, floor, complete, entries: page }, &mut content);
    }
    let mut bytes = u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.extend(sum(&content));
    let check = sum(&bytes);
    bytes.extend(&check[..4]);
    bytes.extend(content);
    bytes
}

/// About how many bytes an entry takes.
pub(crate) fn size_of_entry((key, record): &Entry) -> usize {
    key.len() + record.value.as_ref().map_or(0, |value| value.len()) + 48
}

fn put_page(page: &Page, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([0; 4]);
    codec::encode(page, out);
    let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

fn sum(content: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(content);
    std::array::from_fn(|at| hash.as_bytes()[at])
}

/// What a file means, and whether its last frame was torn: that one was never acknowledged, and the file must be
/// replaced before anything is appended.
///
/// # Errors
/// When the file is not one that this code wrote, or is damaged elsewhere than at its end.
pub fn read(bytes: &[u8]) -> Result<(Catalog, bool), Damaged> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(Damaged)?;
    let mut catalog = Catalog::default();
    let mut first = true;
    while !rest.is_empty() {
        let Some(after) = take_frame(rest, &mut catalog)? else {
            // Nothing but the frame that was being written may be incomplete; the first was there before the file
            // had its name.
            return if first { Err(Damaged) } else { Ok((catalog, true)) };
        };
        rest = after;
        first = false;
    }
    if first { Err(Damaged) } else { Ok((catalog, false)) }
}

/// Takes one frame; none when it is torn and the last.
fn take_frame<'b>(bytes: &'b [u8], catalog: &mut Catalog) -> Result<Option<&'b [u8]>, Damaged> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else { return Ok(None) };
    // Of a write that did not come to its end, a file system leaves a beginning, and maybe zeros after it.
    let ends = |rest: &[u8]| if rest.iter().all(|byte| *byte == 0) { Ok(None) } else { Err(Damaged) };
    if sum(&head[..20])[..4] != head[20..] {
        return ends(rest);
    }
    let len = u32::from_be_bytes(std::array::from_fn(|at| head[at])) as usize;
    let Some((content, after)) = rest.split_at_checked(len) else { return Ok(None) };
    if sum(content) != head[4..20] {
        return ends(after);
    }
    let mut pages = content;
    while let Some((len, rest)) = pages.split_at_checked(4) {
        let len = u32::from_be_bytes(std::array::from_fn(|at| len[at])) as usize;
        let (page, rest) = rest.split_at_checked(len).ok_or(Damaged)?;
        let page: Page = codec::decode(page).map_err(|_| Damaged)?;
        take_page(page, catalog)?;
        pages = rest;
    }
    if pages.is_empty() { Ok(Some(after)) } else { Err(Damaged) }
}

fn take_page(page: Page, catalog: &mut Catalog) -> Result<(), Damaged> {
    if let Some((version, text)) = page.file {
        catalog.set_file(File::from_text(version, &text).ok_or(Damaged)?);
    }
    catalog.raise_floor(page.floor);
    catalog.set_complete(page.complete);
    for entry in page.entries {
        if !Catalog::is_sound(&entry) {
            return Err(Damaged);
        }
        catalog.merge_stored(entry.0, entry.1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Key, Record, Stamp};
    use super::*;

    fn entry(n: u64, value: Option<&str>) -> Entry {
        let stamp = Stamp { count: n, writer: 7 };
        let record = Record { value: value.map(Into::into), stamp, born: stamp, bound: None };
        (Key::Item("ip".into(), n.to_string()), record)
    }

    fn some() -> Catalog {
        let mut catalog =
            Catalog::new(File::from_text(3, r#"{"servers":{"a":{"ip":"10.0.0.1"}}}"#).expect("one"));
        for n in 1..50 {
            let (key, record) = entry(n, (n % 3 > 0).then_some("\"x\""));
            catalog.merge(key, record);
        }
        catalog
    }

    fn same(one: &Catalog, other: &Catalog) -> bool {
        one.brief() == other.brief() && one.file() == other.file() && one.records().eq(other.records())
    }

    #[test]
    fn what_is_stored_is_read_and_what_is_torn_is_left_out() {
        let mut catalog = some();
        let mut bytes = whole(&catalog);
        let (read_back, torn) = read(&bytes).expect("it is whole");
        assert!(same(&read_back, &catalog) && !torn);
        let before = bytes.len();
        let added = vec![entry(90, Some("\"y\"")), entry(3, Some("\"z\""))];
        let old = catalog.clone();
        catalog.raise_floor(2);
        bytes.extend(frame(None, &catalog, added.clone()));
        for (key, record) in added {
            catalog.merge(key, record);
        }
        let (read_back, torn) = read(&bytes).expect("it is whole");
        assert!(same(&read_back, &catalog) && !torn);
        for cut in before + 1..bytes.len() {
            let (read_back, torn) = read(&bytes[..cut]).expect("the rest is whole");
            assert!(same(&read_back, &old) && torn, "{cut} bytes");
            let mut zeros = bytes[..cut].to_vec();
            zeros.resize(bytes.len(), 0);
            if zeros != bytes {
                let (read_back, torn) = read(&zeros).expect("the rest is whole");
                assert!(same(&read_back, &old) && torn, "zeros from {cut} on");
            }
        }
    }

    #[test]
    fn damage_is_never_read_as_something_else() {
        let bytes = [
            whole(&some()),
            frame(None, &some(), vec![entry(60, None)]),
            frame(None, &some(), vec![entry(61, None)]),
        ]
        .concat();
        let whole_file = whole(&some()).len();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            match read(&damaged) {
                Err(Damaged) => {}
                // Only an end that could have been torn is left out.
                Ok((catalog, torn)) => {
                    assert!(torn && at >= whole_file, "byte {at}");
                    assert!(catalog.len() < 51, "byte {at}");
                }
            }
        }
        for text in [&b""[..], b"flip catalog 2\n", b"flip catalog 1\n", b"x"] {
            assert!(read(text).is_err(), "{text:?}");
        }
        for at in 0..whole_file {
            assert!(read(&bytes[..at]).is_err(), "{at} bytes");
        }
    }
}

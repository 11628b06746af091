//! HPACK (RFC 7541), as far as it takes to know a request's method and path.
//!
//! A decoder of one's own, because of what the agent needs and decoders for servers do not do: to begin in the middle. A
//! server must end a connection whose header it cannot decode. Here an index that points to what was not seen is just
//! unknown: entries are counted from the newest one on, so everything that came since is told exactly, and from a literal
//! path on the connection is readable again. For the same reason nothing is ever evicted by size: an encoder does not refer
//! to what its table has lost, so entries are only dropped to bound the memory. And names and values that are no method
//! and no path are neither decompressed nor kept. The Huffman code itself is a library's.

use std::collections::VecDeque;

use httlib_huffman::{DecoderSpeed, decode};
use watchdog_common::abi::HEAD_WINDOW;
use watchdog_common::http::method_code;

/// Entries that are remembered of a connection; a table of the usual 4 KiB holds 128 at most.
const MOST_ENTRIES: usize = 512;
/// Bytes of their paths.
const MOST_PATH_BYTES: usize = 16 * 1024;
/// The table's size until the encoder says otherwise.
const USUAL_TABLE_BYTES: u64 = 4096;
/// What an entry counts beyond its name and value.
const ENTRY_BYTES: u64 = 32;
const STATIC_ENTRIES: u64 = 61;

/// Length of each name in the static table.
const STATIC_NAME_BYTES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13,
    12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3,
    16,
];

/// The block is not of HPACK; its connection's state is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a field or a table's entry is, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    /// [`method_code`]
    Method(u64),
    /// At most [`HEAD_WINDOW`] bytes; `None` for a longer one.
    Path(Option<Box<[u8]>>),
    Other,
    /// From before the decoder's time.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Method,
    Path,
    Other,
    Unknown,
}

#[derive(Clone, Debug)]
struct Entry {
    field: Field,
    name_bytes: u64,
}

/// A request's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Path {
    /// Without one (`CONNECT`), or longer than is looked at.
    #[default]
    None,
    Known(Box<[u8]>),
    /// It was sent when nobody looked, and is only referred to.
    Unknown,
}

/// What a head says. Trailers say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// [`method_code`]; `None` where it is not told, or not known.
    pub method: Option<u64>,
    pub path: Path,
}

/// The state of one connection's heads.
#[derive(Debug)]
pub struct Decoder {
    /// The newest first.
    entries: VecDeque<Entry>,
    path_bytes: usize,
    table_bytes: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { entries: VecDeque::new(), path_bytes: 0, table_bytes: USUAL_TABLE_BYTES }
    }
}

impl Decoder {
    /// Something was missed: what the table holds from before cannot be counted to any more.
    pub fn forget(&mut self) {
        self.entries.clear();
        self.path_bytes = 0;
    }

    /// Size of the encoder's table, as far as is known. Where what it said was missed, the usual size is assumed: it
    /// matters only for entries that are larger than the table, which encoders of use do not try to add.
    pub fn table_bytes(&self) -> u64 {
        self.table_bytes
    }

    /// Bytes that it keeps, roughly.
    pub fn weight(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + self.path_bytes
    }

    /// Reads the whole head of a request. After an error, the state is forgotten.
    pub fn decode(&mut self, block: &[u8]) -> Result<Fields, Malformed> {
        let read = self.read(block);
        if read.is_err() {
            self.forget();
        }
        read
    }

    fn read(&mut self, mut block: &[u8]) -> Result<Fields, Malformed> {
        let mut method = None;
        let mut path = None;
        let mut unknown = false;
        while let Some(&first) = block.first() {
            let field = match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    self.entry(index)?.field
                }
                0x40..0x80 => self.literal(&mut block, 6, true)?,
                0x20..0x40 => {
                    self.table_bytes = integer(&mut block, 5)?;
                    // Entries beyond that are gone, which only shows in that nothing refers to them.
                    continue;
                }
                _ => self.literal(&mut block, 4, false)?,
            };
            match field {
                Field::Method(code) if method.is_none() => method = Some(code),
                Field::Path(bytes) if path.is_none() => path = Some(bytes.map_or(Path::None, Path::Known)),
                Field::Unknown => unknown = true,
                _ => {}
            }
        }
        let missing = if unknown { Path::Unknown } else { Path::None };
        Ok(Fields { method, path: path.unwrap_or(missing) })
    }

    fn entry(&self, index: u64) -> Result<Entry, Malformed> {
        let (field, name_bytes) = match index {
            0 => return Err(Malformed),
            2 => (Field::Method(method_code(b"GET")), 7),
            3 => (Field::Method(method_code(b"POST")), 7),
            4 => (Field::Path(Some((*b"/").into())), 5),
            5 => (Field::Path(Some((*b"/index.html").into())), 5),
            1..=STATIC_ENTRIES => {
                let at = usize::try_from(index - 1).map_err(|_| Malformed)?;
                (Field::Other, u64::from(STATIC_NAME_BYTES[at]))
            }
            _ => {
                let at = usize::try_from(index - STATIC_ENTRIES - 1).map_err(|_| Malformed)?;
                let unknown = Entry { field: Field::Unknown, name_bytes: 0 };
                return Ok(self.entries.get(at).cloned().unwrap_or(unknown));
            }
        };
        Ok(Entry { field, name_bytes })
    }

    fn literal(&mut self, block: &mut &[u8], prefix: u32, indexed: bool) -> Result<Field, Malformed> {
        let index = integer(block, prefix)?;
        let (name, name_bytes) = if index == 0 {
            let name = Text::take(block)?;
            let kind = match name.short(b":method".len())?.as_deref() {
                Some(b":method") => Name::Method,
                Some(b":path") => Name::Path,
                _ => Name::Other,
            };
            (kind, if indexed { name.bytes()? } else { 0 })
        } else {
            let entry = self.entry(index)?;
            let kind = match entry.field {
                Field::Method(_) => Name::Method,
                Field::Path(_) => Name::Path,
                Field::Other => Name::Other,
                Field::Unknown => Name::Unknown,
            };
            (kind, entry.name_bytes)
        };
        let value = Text::take(block)?;
        let field = match name {
            Name::Method => Field::Method(value.short(32)?.map_or(0, |text| method_code(&text))),
            Name::Path => Field::Path(value.short(HEAD_WINDOW)?.map(Into::into)),
            Name::Other => Field::Other,
            Name::Unknown => Field::Unknown,
        };
        if indexed {
            let around = name_bytes.saturating_add(ENTRY_BYTES);
            let mut bytes = around.saturating_add(value.most_bytes());
            // Hardly ever: so long a value is not worth an entry.
            if bytes > self.table_bytes {
                bytes = around.saturating_add(value.bytes()?);
            }
            self.insert(Entry { field: field.clone(), name_bytes }, bytes);
        }
        Ok(field)
    }

    /// What is larger than the whole table empties it.
    fn insert(&mut self, entry: Entry, bytes: u64) {
        if bytes > self.table_bytes {
            self.forget();
            return;
        }
        self.path_bytes += path_bytes(&entry);
        self.entries.push_front(entry);
        while self.entries.len() > MOST_ENTRIES || self.path_bytes > MOST_PATH_BYTES {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.path_bytes -= path_bytes(&oldest);
        }
    }
}

fn path_bytes(entry: &Entry) -> usize {
    match &entry.field {
        Field::Path(Some(path)) => path.len(),
        _ => 0,
    }
}

/// Takes a number whose first bits share a byte with something else.
fn integer(block: &mut &[u8], prefix: u32) -> Result<u64, Malformed> {
    let (&first, mut rest) = block.split_first().ok_or(Malformed)?;
    let most = (1u64 << prefix) - 1;
    let mut value = u64::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, behind) = rest.split_first().ok_or(Malformed)?;
            rest = behind;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            // No number of use is that long.
            if shift > 28 {
                return Err(Malformed);
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// A string as it is sent.
struct Text<'a> {
    compressed: bool,
    raw: &'a [u8],
}

impl<'a> Text<'a> {
    fn take(block: &mut &'a [u8]) -> Result<Self, Malformed> {
        let compressed = block.first().ok_or(Malformed)? & 0x80 != 0;
        let length = usize::try_from(integer(block, 7)?).map_err(|_| Malformed)?;
        let (raw, rest) = block.split_at_checked(length).ok_or(Malformed)?;
        *block = rest;
        Ok(Self { compressed, raw })
    }

    /// The string, if it has at most so many bytes.
    fn short(&self, most: usize) -> Result<Option<Vec<u8>>, Malformed> {
        if !self.compressed {
            return Ok((self.raw.len() <= most).then(|| self.raw.to_vec()));
        }
        // No code is longer than 30 bits.
        if self.raw.len() > most * 30 / 8 + 1 {
            return Ok(None);
        }
        let text = self.decompress()?;
        Ok((text.len() <= most).then_some(text))
    }

    fn decompress(&self) -> Result<Vec<u8>, Malformed> {
        let mut text = Vec::with_capacity(self.raw.len() * 8 / 5 + 1);
        decode(self.raw, &mut text, DecoderSpeed::FourBits).map_err(|_| Malformed)?;
        Ok(text)
    }

    /// An upper bound of its length, decompressed: no code is shorter than 5 bits.
    fn most_bytes(&self) -> u64 {
        self.raw.len() as u64 * if self.compressed { 8 } else { 5 } / 5
    }

    /// Its length, decompressed.
    fn bytes(&self) -> Result<u64, Malformed> {
        Ok(if self.compressed { self.decompress()?.len() } else { self.raw.len() } as u64)
    }
}

#[cfg(test)]
mod tests;

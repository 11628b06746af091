//! Go's `crypto/tls` in a program: where its functions begin and return. Their addresses come from the symbols or, in a
//! program built without, from the table of functions that the runtime itself needs (`.gopclntab`).

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};
use object::{Architecture, Object, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _};
use watchdog_common::abi::program;

use super::symbols::{Point, file_offset};

/// Functions, with what belongs on where they begin.
const ENTERED: [(&str, &str); 3] = [
    ("crypto/tls.(*Conn).Read", program::GO_TLS_READ),
    ("crypto/tls.(*Conn).Write", program::GO_TLS_WRITE),
    ("crypto/tls.(*Conn).Close", program::GO_TLS_CLOSE),
];
#[cfg(test)]
pub(super) const PROGRAMS: [&str; 4] =
    [program::GO_TLS_READ, program::GO_TLS_RETURN, program::GO_TLS_WRITE, program::GO_TLS_CLOSE];
const TABLES: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// They have some hundreds of bytes.
const MOST_BYTES: u64 = 1 << 16;

const OTHER_MACHINE: &str = "its TLS cannot be read, as it is a Go program for another machine than x86_64";
const OLD: &str = "its TLS cannot be read, as its functions do not begin as those of Go 1.17 and later: build it \
                   with a newer Go";
const UNREADABLE: &str = "its TLS cannot be read, as its functions hold unknown instructions: please report it";
const STRIPPED: &str = "its TLS, if it has any, cannot be read, as it was built without symbols and the table of its \
                        functions is not as in Go 1.18 and later: build it with symbols";

/// A function's place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Function {
    address: u64,
    size: u64,
}

type Functions = [Option<Function>; ENTERED.len()];

/// The places of Go's TLS: none in what is no Go program, or has no TLS. An error says why there are none although
/// there may be TLS, and what to do.
pub(super) fn tls<'d>(elf: &impl Object<'d>) -> Result<Vec<Point>, &'static str> {
    if elf.section_by_name(".go.buildinfo").is_none() {
        return Ok(Vec::new());
    }
    if elf.architecture() != Architecture::X86_64 {
        return Err(OTHER_MACHINE);
    }
    let mut functions = of_symbols(elf);
    if elf.symbols().next().is_none() {
        functions = of_table(elf).ok_or(STRIPPED)?;
    }
    let mut points = Vec::new();
    for (function, (_, program)) in functions.into_iter().zip(ENTERED) {
        // What is not used is not linked.
        let Some(function) = function else { return Ok(Vec::new()) };
        let bytes = bytes_of(elf, function).ok_or(UNREADABLE)?;
        let mut places = vec![(program, behind_check(bytes, function.address).ok_or(OLD)?)];
        if program == program::GO_TLS_READ {
            let returns = returns(bytes, function.address).filter(|found| !found.is_empty());
            places.extend(returns.ok_or(UNREADABLE)?.into_iter().map(|at| (program::GO_TLS_RETURN, at)));
        }
        for (program, address) in places {
            let file_offset = file_offset(elf, address).ok_or(UNREADABLE)?;
            points.push(Point { program, file_offset });
        }
    }
    Ok(points)
}

fn of_symbols<'d>(elf: &impl Object<'d>) -> Functions {
    let mut functions = Functions::default();
    for symbol in elf.symbols() {
        if let Some(which) = symbol.name().ok().and_then(which) {
            functions[which] = Some(Function { address: symbol.address(), size: symbol.size() });
        }
    }
    functions
}

fn which(name: &str) -> Option<usize> {
    ENTERED.iter().position(|(wanted, _)| *wanted == name)
}

fn of_table<'d>(elf: &impl Object<'d>) -> Option<Functions> {
    let table = TABLES.iter().find_map(|name| elf.section_by_name(name))?;
    // What the loader relocates has no value in the file.
    Table::of(table.data().ok()?, elf.section_by_name(".text")?.address())?.functions()
}

fn bytes_of<'d>(elf: &impl Object<'d>, function: Function) -> Option<&'d [u8]> {
    let (address, size) = (function.address, function.size);
    if size > MOST_BYTES {
        return None;
    }
    elf.segments().find_map(|segment| segment.data_range(address, size).ok().flatten())
}

/// Where a function goes on when its stack is large enough (`CMP RSP, 16(R14)`, whose register holds the goroutine, and
/// a jump): a call comes by once, whereas it comes by the beginning again after the stack has grown.
fn behind_check(bytes: &[u8], address: u64) -> Option<u64> {
    /// A large frame takes four before the comparison.
    const WITHIN: usize = 8;
    const STACK_GUARD: u64 = 16;
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let first: Vec<Instruction> = decoder.iter().take(WITHIN).collect();
    first.windows(2).find_map(|pair| {
        let compares = pair[0].mnemonic() == Mnemonic::Cmp
            && pair[0].memory_base() == Register::R14
            && pair[0].memory_displacement64() == STACK_GUARD;
        (compares && pair[1].mnemonic() == Mnemonic::Jbe).then(|| pair[1].next_ip())
    })
}

/// Where a function returns; `None` if something in it is no instruction.
fn returns(bytes: &[u8], address: u64) -> Option<Vec<u64>> {
    let mut found = Vec::new();
    for instruction in Decoder::with_ip(64, bytes, address, DecoderOptions::NONE) {
        if instruction.is_invalid() {
            return None;
        }
        if instruction.mnemonic() == Mnemonic::Ret {
            found.push(instruction.ip());
        }
    }
    Some(found)
}

/// The runtime's table of functions: `pcHeader` and `funcTab` in `src/runtime/symtab.go`.
struct Table<'d> {
    bytes: &'d [u8],
    text: u64,
    names: usize,
    functions: usize,
    count: usize,
}

impl<'d> Table<'d> {
    /// `text`: where functions begin if the table does not tell.
    fn of(bytes: &'d [u8], text: u64) -> Option<Self> {
        const GO_1_18: u32 = 0xffff_fff0;
        const GO_1_20: u32 = 0xffff_fff1;
        const WORDS_AT: usize = 8;
        let magic = u32::from_le_bytes(at(bytes, 0)?);
        if !matches!(magic, GO_1_18 | GO_1_20) || bytes.get(7) != Some(&8) {
            return None;
        }
        let word = |n: usize| at(bytes, WORDS_AT + 8 * n).map(u64::from_le_bytes);
        let index = |n: usize| usize::try_from(word(n)?).ok();
        let told = word(2)?;
        Some(Self {
            bytes,
            text: if told == 0 { text } else { told },
            names: index(3)?,
            functions: index(7)?,
            count: index(0)?,
        })
    }

    /// `None` if the table ends before its last entry.
    fn functions(&self) -> Option<Functions> {
        let mut functions = Functions::default();
        for n in 0..self.count {
            let entry = self.functions.checked_add(n.checked_mul(8)?)?;
            let [begin, info, end] = [0, 4, 8].map(|field| self.word(entry.checked_add(field)?));
            let name = self.word(self.functions.checked_add(usize::try_from(info?).ok()?)?.checked_add(4)?)?;
            let name = self.bytes.get(self.names.checked_add(usize::try_from(name).ok()?)?..)?;
            let which = ENTERED.iter().position(|(wanted, _)| begins_with(name, wanted));
            if let Some(which) = which {
                let (begin, end) = (u64::from(begin?), u64::from(end?));
                functions[which] =
                    Some(Function { address: self.text.checked_add(begin)?, size: end.checked_sub(begin)? });
            }
        }
        Some(functions)
    }

    fn word(&self, offset: usize) -> Option<u32> {
        at(self.bytes, offset).map(u32::from_le_bytes)
    }
}

/// Whether this name, which a zero ends, stands here.
fn begins_with(bytes: &[u8], name: &str) -> bool {
    bytes.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

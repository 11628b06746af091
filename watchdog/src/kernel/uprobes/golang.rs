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
const UNREADABLE: &str =
    "its TLS cannot be read, as its functions hold unknown instructions: please report it";
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
            let name =
                self.word(self.functions.checked_add(usize::try_from(info?).ok()?)?.checked_add(4)?)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: u64 = 0x5a_da20;

    /// As Go 1.19 compiles a small function, with the byte of a return inside an immediate value.
    const SMALL: [u8; 38] = [
        0x49, 0x3b, 0x66, 0x10, // 0: cmp 0x10(%r14),%rsp
        0x76, 0x1a, // 4: jbe 32
        0x48, 0x83, 0xec, 0x68, // 6: sub $0x68,%rsp
        0xb8, 0xc3, 0xc3, 0xc3, 0xc3, // 10: mov $0xc3c3c3c3,%eax
        0x85, 0xc9, // 15: test %ecx,%ecx
        0x74, 0x05, // 17: je 24
        0x48, 0x83, 0xc4, 0x68, // 19: add $0x68,%rsp
        0xc3, // 23: ret
        0x48, 0x83, 0xc4, 0x68, // 24: add $0x68,%rsp
        0x31, 0xdb, // 28: xor %ebx,%ebx
        0xc3, // 30: ret
        0x90, // 31: nop
        0xe8, 0xc3, 0xc3, 0xff, 0xff, // 32: call morestack
        0xcc, // 37: int3
    ];

    #[test]
    fn only_instructions_that_return_are_found() {
        assert_eq!(returns(&SMALL, BEGIN), Some(vec![BEGIN + 23, BEGIN + 30]));
        assert_eq!(returns(&[0x90, 0x06], BEGIN), None, "no instruction of 64 bits");
        assert_eq!(returns(&SMALL[..13], BEGIN), None, "cut off within an instruction");
    }

    #[test]
    fn a_function_is_probed_behind_the_check_of_its_stack() {
        assert_eq!(behind_check(&SMALL, BEGIN), Some(BEGIN + 6));
        let large_frame = [
            0x4c, 0x8d, 0x64, 0x24, 0xd8, // 0: lea -0x28(%rsp),%r12
            0x4d, 0x3b, 0x66, 0x10, // 5: cmp 0x10(%r14),%r12
            0x0f, 0x86, 0x00, 0x01, 0x00, 0x00, // 9: jbe 271
            0x55, // 15: push %rbp
        ];
        assert_eq!(behind_check(&large_frame, BEGIN), Some(BEGIN + 15));
        let go_1_16 = [
            0x64, 0x48, 0x8b, 0x0c, 0x25, 0xf8, 0xff, 0xff, 0xff, // mov %fs:-8,%rcx
            0x48, 0x3b, 0x61, 0x10, // cmp 0x10(%rcx),%rsp
            0x76, 0x1a, // jbe
            0x55, // push %rbp
        ];
        assert_eq!(behind_check(&go_1_16, BEGIN), None);
    }

    /// A table as the linker lays it out: two functions, of which the second is known.
    fn table(magic: u32, told_text: u64) -> Vec<u8> {
        const NAMES_AT: u64 = 72;
        const FUNCTIONS_AT: u64 = 120;
        let mut bytes = magic.to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, 8]);
        for word in [2, 0, told_text, NAMES_AT, 0, 0, 0, FUNCTIONS_AT] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"main.main\0crypto/tls.(*Conn).Write\0");
        bytes.resize(120, 0);
        // Where each begins, and where it is described; then where the last one ends.
        for word in [0u32, 20, 0x40, 28, 0x160] {
            bytes.extend(word.to_le_bytes());
        }
        for (begin, name) in [(0u32, 0u32), (0x40, 10)] {
            bytes.extend(begin.to_le_bytes());
            bytes.extend(name.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn functions_are_found_in_the_table_of_the_runtime() {
        let found = |bytes: &[u8]| Table::of(bytes, 0x1000).and_then(|table| table.functions());
        let write = |address| Some([None, Some(Function { address, size: 0x120 }), None]);
        assert_eq!(found(&table(0xffff_fff0, 0x40_1000)), write(0x40_1040));
        assert_eq!(found(&table(0xffff_fff1, 0)), write(0x1040));
        assert_eq!(found(&table(0xffff_fffa, 0x40_1000)), None, "Go 1.16");
    }

    #[test]
    fn a_table_that_is_cut_off_is_not_believed() {
        let whole = table(0xffff_fff1, 0x40_1000);
        for len in 0..whole.len() {
            let found = Table::of(&whole[..len], 0).and_then(|table| table.functions());
            assert_eq!(found, None, "{len} of {} bytes", whole.len());
        }
    }
}

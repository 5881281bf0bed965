//! A built image, disassembled and read function by function.

use std::path::Path;

use crate::problem::Problem;
use crate::toolchain::{Project, output};

/// One function of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function<'a> {
    /// Its symbol, demangled, without the compiler's hash.
    pub(crate) name: &'a str,
    /// Its first address.
    pub(crate) address: u64,
    /// Its instructions, in the order of their addresses.
    pub(crate) body: Vec<Instruction<'a>>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instruction<'a> {
    pub(crate) address: u64,
    /// File and line, innermost of what was inlined; `?` where nothing is known.
    pub(crate) place: &'a str,
    /// The mnemonic.
    pub(crate) operation: &'a str,
    pub(crate) operands: &'a str,
    /// Where it branches to, or what it takes the address of.
    pub(crate) target: Option<Target<'a>>,
}

/// An address in an instruction's operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) address: u64,
    /// The symbol before it, without the compiler's hash and without an offset.
    pub(crate) symbol: &'a str,
}

/// Disassembles an ELF file, with a comment wherever the source line changes.
///
/// # Errors
/// The file is not there, or the toolchain lacks its tool.
pub(crate) fn with_lines(project: &Project, elf: &Path) -> Result<String, Problem> {
    let mut command = project.llvm("llvm-objdump")?;
    command
        .args(["-d", "-l", "--demangle", "--no-show-raw-insn"])
        .arg(elf);
    output(&mut command)
}

/// The functions of a disassembly, in its order.
pub(crate) fn functions(disassembly: &str) -> Vec<Function<'_>> {
    let mut functions: Vec<Function<'_>> = Vec::new();
    let mut place = "?";
    for line in disassembly.lines() {
        if let Some(comment) = line.strip_prefix("; ") {
            if !comment.ends_with("():") {
                place = comment;
            }
        } else if let Some((address, name)) = line.split_once(" <")
            && let Some(name) = name.strip_suffix(">:")
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            place = "?";
            functions.push(Function {
                name: without_hash(name),
                address,
                body: Vec::new(),
            });
        } else if let Some(function) = functions.last_mut()
            && let Some(instruction) = Instruction::parse(line, place)
        {
            function.body.push(instruction);
        }
    }
    functions
}

impl<'a> Instruction<'a> {
    /// Reads a line: address, colon, operation, operands, the symbol of a target in angle brackets.
    fn parse(line: &'a str, place: &'a str) -> Option<Self> {
        let (address, text) = line.trim_start().split_once(':')?;
        let (operation, operands) = text.trim().split_once('\t').unwrap_or((text.trim(), ""));
        let target = operands.split_once(" <").and_then(|(before, symbol)| {
            let address = before.rsplit_once("0x")?.1;
            Some(Target {
                address: u64::from_str_radix(address, 16).ok()?,
                symbol: without_hash(symbol.strip_suffix('>')?),
            })
        });
        Some(Self {
            address: u64::from_str_radix(address, 16).ok()?,
            place,
            operation,
            operands,
            target,
        })
    }
}

impl Function<'_> {
    /// Whether an address lies in its instructions.
    pub(crate) fn holds(&self, address: u64) -> bool {
        let last = self.body.last().map_or(self.address, |one| one.address);
        (self.address..=last).contains(&address)
    }
}

/// A name as sources spell it, where the symbol spells out what assemblers do not take.
pub(crate) fn readable(name: &str) -> String {
    const SPELT: [(&str, &str); 9] = [
        ("_$LT$", "<"),
        ("$LT$", "<"),
        ("$GT$", ">"),
        ("$u20$", " "),
        ("$RF$", "&"),
        ("$C$", ","),
        ("_$u7b$", "{"),
        ("$u7b$", "{"),
        ("$u7d$", "}"),
    ];
    let mut name = name.replace("..", "::");
    for (symbol, source) in SPELT {
        name = name.replace(symbol, source);
    }
    name
}

/// A place without the folders before the crate's own.
pub(crate) fn short(place: &str) -> &str {
    ["/registry/src/", "/library/", "/kernel/", "/platforms/"]
        .iter()
        .find_map(|&mark| {
            let (_, rest) = place.split_once(mark)?;
            // The registry has one more folder, named after itself.
            if mark == "/registry/src/" {
                rest.split_once('/').map(|(_, rest)| rest)
            } else {
                Some(rest)
            }
        })
        .unwrap_or(place)
}

/// A symbol without the compiler's hash and without an offset.
fn without_hash(name: &str) -> &str {
    let name = name.split_once("+0x").map_or(name, |(name, _)| name);
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            path
        }
        _ => name,
    }
}

//! A debugger on QEMU's gdb stub: just enough of the remote protocol to put a core at an instruction.
//!
//! It attacks EL2 from outside, so that what is tested needs no door in the product. (GDB manual, "Remote
//! Serial Protocol"; QEMU documentation, "GDB usage".)

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Number of PC in QEMU's description of an AArch64 core; X0 to X30 are 0 to 30.
pub const PC: u32 = 32;

/// How long the stub may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A debugger that holds the board's cores, until it says otherwise.
#[derive(Debug)]
pub struct Debugger {
    stream: UnixStream,
}

/// QEMU's arguments for a debugger at `socket`.
#[must_use]
pub fn arguments(socket: &Path) -> Vec<String> {
    let unix = format!("unix:{},server=on,wait=off", socket.display());
    vec!["-gdb".into(), unix]
}

impl Debugger {
    /// Stops the board of which QEMU was started with [`arguments`].
    ///
    /// # Errors
    /// There is no such socket, or it does not answer.
    pub fn attach(socket: &PathBuf) -> Result<Self, String> {
        let said = |error: std::io::Error| format!("no debugger at QEMU: {error}");
        let stream = UnixStream::connect(socket).map_err(said)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(said)?;
        let mut debugger = Self { stream };
        debugger.ask("?")?;
        Ok(debugger)
    }

    /// Lets the cores run until one is about to execute the instruction at `address`.
    ///
    /// # Errors
    /// None came there.
    pub fn run_to(&mut self, address: u64) -> Result<(), String> {
        self.order(&format!("Z0,{address:x},4"))?;
        let stop = self.ask("c")?;
        if !stop.starts_with("T05") {
            return Err(format!("the board did not stop at {address:#x}: {stop}"));
        }
        self.order(&format!("z0,{address:x},4"))
    }

    /// Writes a register of the core that stopped.
    ///
    /// # Errors
    /// The stub refuses.
    pub fn set(&mut self, register: u32, value: u64) -> Result<(), String> {
        let value = value.swap_bytes();
        self.order(&format!("P{register:x}={value:016x}"))
    }

    /// Lets the cores run, and leaves.
    ///
    /// # Errors
    /// The stub is gone.
    pub fn let_go(mut self) -> Result<(), String> {
        self.order("D")
    }

    fn order(&mut self, packet: &str) -> Result<(), String> {
        match self.ask(packet)?.as_str() {
            "OK" => Ok(()),
            other => Err(format!(
                "QEMU's debugger answered `{packet}` with `{other}`"
            )),
        }
    }

    /// Sends a packet and returns the answer.
    fn ask(&mut self, packet: &str) -> Result<String, String> {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        let said = |error| format!("QEMU's debugger is silent after `{packet}`: {error}");
        write!(self.stream, "${packet}#{sum:02x}").map_err(said)?;
        let end = Instant::now() + PATIENCE;
        let mut answer = Vec::new();
        while Instant::now() < end {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).map_err(said)?;
            let [byte] = byte;
            match (byte, answer.is_empty()) {
                // Acknowledgements, before the answer.
                (b'$', true) => answer.push(byte),
                (_, true) => {}
                (b'#', false) => {
                    self.stream.read_exact(&mut [0; 2]).map_err(said)?;
                    self.stream.write_all(b"+").map_err(said)?;
                    let text = answer.get(1..).unwrap_or_default();
                    return Ok(String::from_utf8_lossy(text).into_owned());
                }
                _ => answer.push(byte),
            }
        }
        Err(format!("QEMU's debugger does not answer `{packet}`"))
    }
}

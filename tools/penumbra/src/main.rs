//! `penumbra`: checks scenarios, packs bundles, builds images and runs them on QEMU.
#![forbid(unsafe_code)]

mod checks;
mod cli;
mod commands;
mod say;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::execute(cli::Cli::parse().command) {
        Ok(code) => code,
        Err(problems) => {
            problems.print();
            ExitCode::FAILURE
        }
    }
}

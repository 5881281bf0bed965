//! `penumbra-suites`: runs the tests and the measurements.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use penumbra_suites::case::{Case, run_all};
use penumbra_suites::workshop::Workshop;
use penumbra_suites::{
    bench, bench_floods, bench_paging, bench_reset, bench_shadow, bench_wakeups, cases,
};

const USAGE: &str = "usage: penumbra-suites quick | full | list | one NAME... | soak RESTARTS KILLS | soak-paging MINUTES
       penumbra-suites bench-events | bench-floods | bench-boot | bench-reset | bench-paging [WORD...] | bench-paging-events
       penumbra-suites bench-wakeups
NAME may be the beginning of names.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let all = cases::all();
    match words.as_slice() {
        ["list"] => {
            for case in &all {
                println!(
                    "{}{}",
                    if case.quick { "quick " } else { "      " },
                    case.name
                );
            }
            ExitCode::SUCCESS
        }
        ["quick"] => tests(all.iter().filter(|case| case.quick).collect()),
        ["full"] => tests(all.iter().collect()),
        ["one", names @ ..] if !names.is_empty() => tests(
            all.iter()
                .filter(|c| names.iter().any(|n| c.name.starts_with(n)))
                .collect(),
        ),
        ["soak", restarts, kills] => match (restarts.parse(), kills.parse()) {
            (Ok(restarts), Ok(kills)) => {
                let soak = move |w: &Workshop| cases::soak(w, restarts, kills);
                tests(vec![&Case::new("soak", false, soak)])
            }
            _ => usage(),
        },
        ["soak-paging", minutes] => match minutes.parse() {
            Ok(minutes) => {
                let soak = move |w: &Workshop| cases::soak_paging(w, minutes);
                tests(vec![&Case::new("soak-paging", false, soak)])
            }
            _ => usage(),
        },
        ["bench-events"] => measure(bench::events),
        ["bench-boot"] => measure(bench::boot),
        ["bench-reset"] => measure(bench_reset::reset),
        ["bench-paging", words @ ..] => measure(|w| bench_paging::paging(w, words)),
        ["bench-paging-events"] => measure(bench_shadow::paging_events),
        ["bench-floods"] => measure(bench_floods::floods),
        ["bench-wakeups"] => measure(bench_wakeups::wakeups),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn tests(cases: Vec<&Case>) -> ExitCode {
    if cases.is_empty() {
        eprintln!("penumbra-suites: no test has that name; `list` shows them");
        return ExitCode::from(2);
    }
    finish(Workshop::open().and_then(|workshop| run_all(&workshop, &cases)))
}

fn measure(bench: impl FnOnce(&Workshop) -> Result<bool, String>) -> ExitCode {
    finish(Workshop::open().and_then(|workshop| bench(&workshop)))
}

fn finish(good: Result<bool, String>) -> ExitCode {
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("penumbra-suites: {why}");
            ExitCode::FAILURE
        }
    }
}

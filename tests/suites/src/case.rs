//! Tests and how they are run: some at a time, one line each.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::workshop::Workshop;

/// What a test does: `Err` is the sentence that says what is wrong.
pub type Run = Box<dyn Fn(&Workshop) -> Result<(), String> + Send + Sync>;

/// One test.
pub struct Case {
    /// Its name, unique.
    pub name: String,
    /// Whether the quick suite has it.
    pub quick: bool,
    /// What it does.
    pub run: Run,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Case({})", self.name)
    }
}

impl Case {
    /// A test.
    pub fn new(
        name: impl Into<String>,
        quick: bool,
        run: impl Fn(&Workshop) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            quick,
            run: Box::new(run),
        }
    }

    /// A test that wants to know its own name, under which it keeps what it uses.
    pub fn named(
        name: String,
        quick: bool,
        run: impl Fn(&Workshop, &str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let own = name.clone();
        Self::new(name, quick, move |workshop| run(workshop, &own))
    }
}

/// Boards that run at the same time, unless `$PENUMBRA_BOARDS` says another number.
const BOARDS: usize = 2;

/// How many boards to run at the same time.
fn boards() -> Result<usize, String> {
    match std::env::var("PENUMBRA_BOARDS") {
        Err(_) => Ok(BOARDS),
        Ok(text) => match text.parse() {
            Ok(boards @ 1..=64) => Ok(boards),
            _ => Err(format!(
                "PENUMBRA_BOARDS={text} is not a number from 1 to 64"
            )),
        },
    }
}

/// Whether more boards may run at the same time than the workstation has cores.
///
/// # Errors
/// `$PENUMBRA_BOARDS` is not a number of boards.
pub fn share_cores() -> Result<bool, String> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    Ok(boards()? > cores)
}

/// Runs the cases, prints a line for each and the closing line; says whether all passed.
///
/// # Errors
/// `$PENUMBRA_BOARDS` is not a number of boards.
pub fn run_all(workshop: &Workshop, cases: &[&Case]) -> Result<bool, String> {
    let boards = boards()?;
    let queue: Mutex<VecDeque<&&Case>> = Mutex::new(cases.iter().collect());
    let failed = Mutex::new(0_usize);
    std::thread::scope(|scope| {
        for _ in 0..boards {
            scope.spawn(|| {
                loop {
                    let next = queue
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(case) = next else { return };
                    let start = Instant::now();
                    let result = (case.run)(workshop);
                    let seconds = start.elapsed().as_secs_f32();
                    // One lock for counting and printing keeps lines whole.
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(()) => println!("ok {} ({seconds:.1} s)", case.name),
                        Err(why) => {
                            *failed += 1;
                            println!("FAIL {}: {why}", case.name);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{} passed, {failed} failed", cases.len() - failed);
    Ok(failed == 0)
}

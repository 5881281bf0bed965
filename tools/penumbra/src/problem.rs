//! What the tool says when it cannot go on: one sentence, the place in the scenario, a hint.
//!
//! A [`Problem`] is collected where it is found; [`Problem::report`] renders it. A scenario is read
//! to its end, so that all its problems are shown at once.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{LabeledSpan, MietteDiagnostic, NamedSource, Report};

/// A text file together with the name to show for it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The path as the person wrote it.
    pub path: PathBuf,
    /// The file's text.
    pub text: Arc<str>,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// The file is not there, cannot be read or is not UTF-8 text.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problem::new(format!(
                "cannot read the scenario {}: {error}",
                path.display()
            ))
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            text: text.into(),
        })
    }

    /// The line (from 1) of a byte of the text.
    #[must_use]
    pub fn line(&self, offset: usize) -> u32 {
        let before = self
            .text
            .as_bytes()
            .iter()
            .take(offset)
            .filter(|&&byte| byte == b'\n')
            .count();
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Problem {
    /// One plain sentence.
    pub message: String,
    /// Bytes of the scenario that it is about.
    pub span: Option<Range<usize>>,
    /// What to do.
    pub help: Option<String>,
}

impl Problem {
    /// A problem that has no place in a scenario.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            span: None,
            help: None,
        }
    }

    /// A problem at a place in the scenario.
    pub fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            span: Some(span),
            help: None,
        }
    }

    /// Adds a hint.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Renders the problem for people.
    pub fn report(self, source: Option<&Source>) -> Report {
        let mut diagnostic = MietteDiagnostic::new(self.message);
        diagnostic.help = self.help;
        let Some((span, source)) = self.span.zip(source) else {
            return Report::new(diagnostic);
        };
        let diagnostic = diagnostic.with_label(LabeledSpan::underline(span));
        let name = source.path.display().to_string();
        Report::new(diagnostic).with_source_code(NamedSource::new(name, source.text.clone()))
    }
}

/// All that is wrong with one scenario, in the order of its lines. Never empty.
#[derive(Clone, Debug)]
#[must_use]
pub struct Problems {
    /// The scenario, where there is one.
    pub source: Option<Source>,
    /// What is wrong.
    pub list: Vec<Problem>,
}

impl Problems {
    /// Problems of a scenario, sorted by place.
    pub fn of(source: &Source, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
        Self {
            source: Some(source.clone()),
            list,
        }
    }

    /// Prints all of them to standard error.
    pub fn print(self) {
        for problem in self.list {
            eprintln!("{:?}", problem.report(self.source.as_ref()));
        }
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self {
            source: None,
            list: vec![problem],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_from_one() {
        let source = Source {
            path: "a.toml".into(),
            text: "a\nb\nc".into(),
        };
        assert_eq!([0, 1, 2, 3, 4].map(|at| source.line(at)), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_report_shows_sentence_place_and_hint() {
        let source = Source {
            path: "dir/a.toml".into(),
            text: "a = 1\nb = 2\n".into(),
        };
        let problem = Problem::at(10..11, "b is not good").help("write 3");
        let text = format!("{:?}", problem.report(Some(&source)));
        for part in ["b is not good", "dir/a.toml:2:5", "b = 2", "write 3"] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
    }
}

//! Diagnostics: where a policy file is wrong, what it says there, and what to write instead. Rendering only; never
//! decides whether a file is accepted beyond "has it an error".

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// One file as read: its name for messages, and its text.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Source {
    /// As the operator would name it.
    pub name: Arc<str>,
    /// Its whole text.
    pub text: Arc<str>,
}

/// A place in one of the sources: index of the source, and bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Index into [`Diagnostics::sources`].
    pub source: usize,
    /// Byte range in its text.
    pub bytes: Range<usize>,
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is not accepted.
    Error,
    /// It is, but look again.
    Warning,
}

/// One thing to say about the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub title: String,
    /// What to write instead.
    pub help: String,
}

/// A diagnostic without its source text.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// The source's name.
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// What is wrong.
    pub title: String,
    /// What to write instead.
    pub help: String,
}

/// Everything there is to say, with the texts that it speaks of. Its `Display` is what the operator reads.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    /// The sources, presets included.
    pub sources: Vec<Source>,
    /// In order of file and place.
    pub all: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.all.iter().any(|d| d.severity == Severity::Error)
    }

    /// 1-based line and column (in characters) of a place.
    pub fn line_column(&self, place: &Place) -> (u32, u32) {
        self.sources.get(place.source).map_or((1, 1), |source| {
            line_column(&source.text, place.bytes.start)
        })
    }

    /// The same as data, for `--json`.
    pub fn findings(&self) -> Vec<Finding> {
        let finding = |d: &Diagnostic| {
            let (line, column) = self.line_column(&d.place);
            let source = self.sources.get(d.place.source);
            Finding {
                severity: d.severity,
                file: source.map_or_else(|| "".into(), |s| s.name.clone()),
                line,
                column,
                title: d.title.clone(),
                help: d.help.clone(),
            }
        };
        self.all.iter().map(finding).collect()
    }

    fn render(&self, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&*diagnostic.title);
        let mut group = annotate_snippets::Group::with_title(title);
        if let Some(source) = self.sources.get(diagnostic.place.source) {
            let bytes = clamp(&source.text, &diagnostic.place.bytes);
            group = group.element(
                Snippet::source(&*source.text)
                    .path(&*source.name)
                    .annotation(AnnotationKind::Primary.span(bytes)),
            );
        }
        if !diagnostic.help.is_empty() {
            group = group.element(Level::HELP.message(&*diagnostic.help));
        }
        Renderer::plain().render(&[group])
    }
}

/// Keeps a span inside the text and, where it runs over several lines, on its first one.
fn clamp(text: &str, bytes: &Range<usize>) -> Range<usize> {
    let start = bytes.start.min(text.len());
    let end = bytes.end.clamp(start, text.len());
    let line_end = text[start..end].find('\n').map_or(end, |at| start + at);
    start..line_end
}

/// 1-based line and column (in characters) of a byte offset.
pub(crate) fn line_column(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before[line_start..].chars().count() + 1;
    (
        u32::try_from(line).unwrap_or(u32::MAX),
        u32::try_from(column).unwrap_or(u32::MAX),
    )
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.all {
            writeln!(f, "{}\n", self.render(diagnostic))?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

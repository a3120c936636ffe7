//! `cargo xtask tidy`: the rules of the house that no compiler knows, over every tracked file. All offences are listed at once.

mod source;
mod tree;

use crate::{process, workspace};
use anyhow::{Context, Result, bail};

/// A tracked text file.
struct Tracked {
    path: String,
    text: String,
}

/// Run the verb.
pub(crate) fn run() -> Result<()> {
    let files = tracked()?;
    let mut offences = tree::offences(&files);
    offences.extend(
        files
            .iter()
            .filter(|f| f.path.ends_with(".rs"))
            .flat_map(source::offences),
    );
    source::report_long(&files);
    for offence in &offences {
        println!("  {offence}");
    }
    match offences.len() {
        0 => {
            println!("tidy: {} files, nothing to say", files.len());
            Ok(())
        }
        count => bail!("tidy: {count} offences"),
    }
}

fn tracked() -> Result<Vec<Tracked>> {
    let list = process::output(
        "git",
        &["ls-files", "--cached", "--others", "--exclude-standard"],
    )
    .context("git ls-files")?;
    let root = workspace::root();
    // What isn't text (an image in a document) has no rule here; what was just deleted isn't there.
    let read = |path: &str| {
        Some(Tracked {
            text: std::fs::read_to_string(root.join(path)).ok()?,
            path: path.to_owned(),
        })
    };
    Ok(list.lines().filter_map(read).collect())
}
